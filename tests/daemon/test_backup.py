"""A state directory as one file, and its way back."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunfwd.cli import main
from tunfwd.common.errors import UserError
from tunfwd.daemon.storage import backup
from tunfwd.daemon.storage.state import State
from tunfwd.tox.binding import encryptsave
from tunfwd.tox.binding.errors import DecryptionFailed

STATE = b'{"schema": 1, "names": {"' + b"AB" * 32 + b'": "bob"}}\n'


@pytest.fixture(autouse=True)
def encryption(monkeypatch: pytest.MonkeyPatch) -> None:
    """toxencryptsave's shape without libtoxcore: 80 bytes more, which tell whether the key is right."""

    class Key:
        def __init__(self, passphrase: bytes, salt: bytes | None = None) -> None:
            self.head = b"toxEsave" + passphrase.ljust(72, b"\0")

        def encrypt(self, data: bytes) -> bytes:
            return self.head + bytes(byte ^ 0x55 for byte in data)

        def decrypt(self, data: bytes) -> bytes:
            if data[:80] != self.head:
                raise encryptsave_failure
            return bytes(byte ^ 0x55 for byte in data[80:])

    encryptsave_failure = DecryptionFailed.__new__(DecryptionFailed)
    monkeypatch.setattr(encryptsave, "Tox_Pass_Key_Ptr", Key)
    monkeypatch.setattr(encryptsave, "get_salt", lambda data: b"")
    monkeypatch.setattr(encryptsave, "is_data_encrypted", lambda data: data.startswith(b"toxEsave"))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """One as a daemon leaves it."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    for name, content in (
        ("identity.tox", b"\0\1keys"),
        ("identity.tox.previous", b"older"),
        ("state.json", STATE),
        ("nodes.json", b"{}"),
        ("lock", b"77\n"),
        (".state.json.new", b"half"),
    ):
        (state / name).write_bytes(content)
        (state / name).chmod(0o600)
    return state


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock"}


def restore(
    data: bytes, directory: Path, *, force: bool = False, passphrase: bytes | None = None
) -> Path | None:
    return backup.restore(backup.read(data, passphrase, "b"), directory, None, force=force)


@pytest.mark.parametrize("passphrase", [None, b"sesame"])
def test_there_and_back(state: Path, tmp_path: Path, passphrase: bytes | None) -> None:
    data = backup.make(state, passphrase)
    there = tmp_path / "new" / "state"
    assert restore(data, there, passphrase=passphrase) is None
    expected = content(state)
    del expected[".state.json.new"]
    assert content(there) == expected
    assert stat.S_IMODE(there.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in there.iterdir())
    assert sorted(path.name for path in there.parent.iterdir()) == ["state"]
    with State.load(there) as loaded:
        assert loaded.content.names == {"AB" * 32: "bob"}


def test_a_running_daemon_is_backed_up_and_not_restored_over(state: Path) -> None:
    data = backup.make(state, None)
    with State.load(state):
        assert len(backup.make(state, None)) == len(data)
        before = content(state)
        with pytest.raises(UserError, match="another daemon uses"):
            restore(data, state, force=True)
        assert content(state) == before


def test_what_is_there_is_kept(state: Path) -> None:
    data = backup.make(state, None)
    (state / "state.json").write_bytes(b'{"schema": 1}\n')
    with pytest.raises(UserError, match="--force puts the backup in its place"):
        restore(data, state)
    assert (state / "state.json").read_bytes() == b'{"schema": 1}\n'
    names = []
    for _ in range(2):
        kept = restore(data, state, force=True)
        assert kept is not None
        names.append(kept.name)
        assert content(state)["state.json"] == STATE
    assert content(state.with_name(names[0]))["state.json"] == b'{"schema": 1}\n'
    assert names[0].startswith("state.before-")
    assert names[1] == f"{names[0]}-2"
    assert sorted(path.name for path in state.parent.iterdir()) == sorted(["state", *names])


def test_an_empty_directory_is_nothing_to_keep(state: Path, tmp_path: Path) -> None:
    there = tmp_path / "empty"
    there.mkdir()
    (there / "lock").touch()
    assert restore(backup.make(state, None), there, force=True) is None
    assert "identity.tox" in content(there)


@pytest.mark.parametrize("passphrase", [None, b"sesame"])
def test_a_cut_or_altered_file_changes_nothing(state: Path, passphrase: bytes | None) -> None:
    data = backup.make(state, passphrase)
    before = content(state)
    wrong = [data[:length] for length in (0, 5, 13, 100, len(data) // 2, len(data) - 1)]
    wrong += [
        data + b"\0",
        *(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in (3, 90, len(data) - 40)),
    ]
    for one in wrong:
        with pytest.raises(UserError) as refused:
            restore(one, state, force=True, passphrase=passphrase)
        assert refused.value.code == "failed"
        assert refused.value.message.startswith("b ")
    assert content(state) == before


def test_the_passphrase_has_to_be_the_right_one(state: Path, tmp_path: Path) -> None:
    data = backup.make(state, b"sesame")
    assert b"keys" not in data
    with pytest.raises(UserError, match="is encrypted: --passphrase-file"):
        restore(data, tmp_path / "new")
    with pytest.raises(UserError, match="does not open with this passphrase"):
        restore(data, tmp_path / "new", passphrase=b"other")
    assert not (tmp_path / "new").exists()


def framed(change: Callable[[Any], object], data: bytes) -> bytes:
    document = json.loads(data[len(backup.MAGIC) : -backup.CHECKSUM_SIZE])
    change(document)
    body = backup.MAGIC + json.dumps(document).encode()
    return body + backup._checksum(body)


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (lambda d: d.update(format=2, version="9.0"), "configuration", "from a newer tunfwd (9.0)"),
        (lambda d: d.update(schema=2, more="x"), "configuration", "from a newer tunfwd"),
        (lambda d: d["files"].pop("identity.tox"), "failed", "it has no identity"),
        (lambda d: d["files"].update({"../x": ""}), "failed", "'../x' is not the name of a file in it"),
        (lambda d: d["files"].update({"lock": ""}), "failed", "'lock' is not the name"),
        (lambda d: d["files"].update({"x": "?"}), "failed", "x is not Base64"),
        (lambda d: d.pop("made"), "failed", "made"),
        (lambda d: d.update(files=7), "failed", "files must be a table"),
    ],
)
def test_what_cannot_be_a_backup_of_this_version(
    state: Path, tmp_path: Path, change: Callable[[Any], object], code: str, reason: str
) -> None:
    data = framed(change, backup.make(state, None))
    with pytest.raises(UserError) as refused:
        restore(data, tmp_path / "new")
    assert refused.value.code == code
    assert reason in refused.value.message
    assert not (tmp_path / "new").exists()


def test_a_frame_around_nothing_is_no_backup(tmp_path: Path) -> None:
    for body in (b"", b"{", b"[" * 100_000, b"7", b"\xff"):
        data = backup.MAGIC + body
        with pytest.raises(UserError, match="b is not a backup of tunfwd"):
            restore(data + backup._checksum(data), tmp_path / "new")


@pytest.mark.parametrize("step", ["mkdir", "write_whole", "_exchange", "chown"])
def test_whatever_fails_nothing_is_lost(state: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    data = backup.make(state, None)
    (state / "state.json").write_bytes(b'{"schema": 1}\n')
    before = content(state)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        match step:
            case "mkdir":
                patch.setattr(Path, "mkdir", fail)
            case "chown":
                patch.setattr(os, "chown", fail)
                patch.setattr(os, "geteuid", lambda: -7)
            case name:
                patch.setattr(backup, name, fail)
        with pytest.raises(UserError, match="No space left on device"):
            restore(data, state, force=True)
    assert content(state) == before
    assert restore(data, state, force=True) is not None  # what was left half done is no trouble
    assert content(state)["state.json"] == STATE


def test_there_has_to_be_something(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no state directory"):
        backup.make(tmp_path / "none", None)
    with pytest.raises(UserError, match="holds no identity"):
        backup.make(tmp_path, None)


def test_the_commands(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNFWD_STATE_DIR", str(state))
    monkeypatch.setenv("TUNFWD_CONFIG", "/dev/null")
    monkeypatch.setattr("tunfwd.cli.backup._owner", lambda user: None)
    file, secret = tmp_path / "b", tmp_path / "secret"
    secret.write_text("sesame\n")
    assert main.run(["backup", str(file)]) == 0
    assert capsys.readouterr().err == "It is not encrypted: whoever can read it can be you.\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert main.run(["backup", str(file), "--passphrase-file", str(secret), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["backup"]["encrypted"] is True
    assert main.run(["restore", str(file)]) == 2
    assert main.run(["restore", str(file), "--passphrase-file", str(secret)]) == 1
    assert "--force" in capsys.readouterr().err
    assert main.run(["restore", str(file), "--passphrase-file", str(secret), "--force", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)["restored"]["kept"]
    assert Path(kept, "identity.tox").exists()
    assert main.run(["restore", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.endswith("none cannot be read: No such file or directory\n")
