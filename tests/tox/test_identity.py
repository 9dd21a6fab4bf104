"""The identity on disk: whole or not at all, readable by its owner alone, and clear about what is wrong."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tunfwd.files import previous
from tunfwd.tox.binding import encryptsave
from tunfwd.tox.binding.enums import Tox_Savedata_Type
from tunfwd.tox.binding.instance import Tox_Options_Ptr, Tox_Ptr
from tunfwd.tox.client import Client
from tunfwd.tox.handler import Handler
from tunfwd.tox.identity import Damaged, Identity, IdentityError, read_passphrase
from tunfwd.tox.settings import Settings


def start(savedata: bytes | None = None) -> Tox_Ptr:
    with Tox_Options_Ptr() as options:
        options.udp_enabled = False
        options.experimental_groups_persistence = True
        if savedata is not None:
            options.savedata_type = Tox_Savedata_Type.TOX_SAVEDATA_TYPE_TOX_SAVE
            options.savedata_data = savedata
        return Tox_Ptr(options)


@pytest.fixture(scope="module")
def savedata() -> bytes:
    """Of an instance with a friend, a group and a conference."""
    with start() as tox:
        tox.name = b"alice"
        with start() as other:
            tox.friend_add_norequest(other.public_key)
        tox.group_new(1, b"lan", b"alice")  # type: ignore[arg-type]
        tox.conference_new()
        return tox.savedata


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "identity.tox"


def test_what_is_saved_is_loaded(path: Path, savedata: bytes) -> None:
    assert Identity(path).load() is None
    Identity(path).save(savedata)
    loaded = Identity(path).load()
    assert loaded == savedata
    with start(loaded) as tox:
        assert tox.name == b"alice"
        assert tox.friend_list == [0]
        assert tox.group_get_name(0) == b"lan"
        assert tox.group_number_groups == 1


def test_file_and_folder_are_for_the_owner_alone(path: Path, savedata: bytes) -> None:
    old = os.umask(0)
    try:
        Identity(path).save(savedata)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == [path.name]


def test_failed_save_leaves_the_old_file(
    path: Path, savedata: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = Identity(path)
    identity.save(savedata)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    stored = path.read_bytes()
    with pytest.raises(IdentityError, match="cannot be saved: No space left"):
        identity.save(b"something else")
    assert path.read_bytes() == stored
    assert Identity(path).load() == savedata


def test_leftover_of_a_killed_run_is_replaced(path: Path, savedata: bytes) -> None:
    path.parent.mkdir()
    leftover = path.with_name(".identity.tox.new")
    leftover.write_bytes(b"half")
    leftover.chmod(0o666)
    Identity(path).save(savedata)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not leftover.exists()


def test_link_stays_a_link(tmp_path: Path, savedata: bytes) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.tox").symlink_to(tmp_path / "real" / "there.tox")
    Identity(tmp_path / "link.tox").save(savedata)
    assert (tmp_path / "link.tox").is_symlink()
    assert Identity(tmp_path / "real" / "there.tox").load() == savedata


@pytest.mark.heavy
def test_every_truncation_is_noticed(path: Path, savedata: bytes) -> None:
    path.parent.mkdir()
    end = len(savedata.rstrip(b"\0"))
    for length in range(end):
        path.write_bytes(savedata[:length])
        with pytest.raises(IdentityError, match=r"cut short|not a Tox identity|is empty"):
            Identity(path).load()
        assert path.read_bytes() == savedata[:length]
    path.write_bytes(savedata[:end])
    assert Identity(path).load() == savedata[:end]


@pytest.mark.parametrize("garbage", [b"", b"hello", bytes(4000), b"\xff" * 4000, b"toxEsave" + bytes(20)])
def test_what_is_no_identity_is_called_so(path: Path, garbage: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(garbage)
    with pytest.raises(IdentityError, match=r"not a Tox identity|is empty"):
        Identity(path).load()
    assert path.read_bytes() == garbage


def test_unreadable_file_is_named(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(IdentityError, match="Is a directory"):
        Identity(path).load()


def test_encrypted_round_trip(path: Path, savedata: bytes) -> None:
    identity = Identity(path, b"correct horse")
    identity.save(savedata)
    stored = path.read_bytes()
    assert encryptsave.is_data_encrypted(stored)
    assert len(stored) == len(savedata) + 80
    assert b"alice" not in stored
    again = Identity(path, b"correct horse")
    assert again.load() == savedata
    again.save(savedata)
    assert path.read_bytes() != stored  # a new nonce
    assert encryptsave.get_salt(path.read_bytes()) == encryptsave.get_salt(stored)

    with pytest.raises(IdentityError, match="set passphrase_file"):
        Identity(path).load()
    with pytest.raises(IdentityError, match="does not open with this passphrase"):
        Identity(path, b"wrong").load()
    previous(path).unlink()
    path.write_bytes(stored[:-1])
    with pytest.raises(IdentityError, match=r"does not open|cannot be decrypted"):
        Identity(path, b"correct horse").load()


def test_plain_identity_is_encrypted_when_a_passphrase_is_set(path: Path, savedata: bytes) -> None:
    Identity(path).save(savedata)
    identity = Identity(path, b"secret")
    assert identity.load() == savedata
    identity.save(savedata)
    assert encryptsave.is_data_encrypted(path.read_bytes())
    identity.save(savedata)
    assert os.listdir(path.parent) != [path.name]  # the generation before is there, and encrypted, too
    assert all(encryptsave.is_data_encrypted(file.read_bytes()) for file in path.parent.iterdir())


def test_passphrase_is_the_first_line(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(b"two words \nsecond line\n")
    assert read_passphrase(file) == b"two words "
    file.write_bytes(b"\nsecond line\n")
    with pytest.raises(IdentityError, match="is empty"):
        read_passphrase(file)
    with pytest.raises(IdentityError, match="No such file"):
        read_passphrase(tmp_path / "none")


PASSPHRASES = [None, b"correct horse"]


def saved_twice(path: Path, savedata: bytes, passphrase: bytes | None = None) -> Identity:
    """Two generations; the newer one has another end."""
    identity = Identity(path, passphrase)
    identity.save(savedata)
    identity.save(savedata + bytes(8))
    return identity


@pytest.mark.parametrize("passphrase", PASSPHRASES)
@pytest.mark.parametrize("damage", ["missing", "empty", "zeros", "cut", "flipped", "garbage"])
def test_the_generation_before_is_used_when_the_file_is_damaged(
    path: Path, savedata: bytes, caplog: pytest.LogCaptureFixture, damage: str, passphrase: bytes | None
) -> None:
    saved_twice(path, savedata, passphrase)
    whole = path.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "empty": b"",
        "zeros": bytes(len(whole)),
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "garbage": b"\xff" * len(whole),
    }.get(damage)
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    assert Identity(path, passphrase).load() == savedata
    (record,) = caplog.records
    assert "restored as saved at" in record.message
    if damaged is not None:
        assert "is kept as identity.tox.corrupt-1" in record.message
        assert path.with_name("identity.tox.corrupt-1").read_bytes() == damaged
    caplog.clear()
    Identity(path, passphrase).save(savedata)
    assert Identity(path, passphrase).load() == savedata
    assert not caplog.records


def test_every_bit_that_is_wrong_is_noticed(path: Path, savedata: bytes) -> None:
    Identity(path).save(savedata)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        if len(savedata) <= position < len(savedata) + 8:  # its mark: taken for zeros that follow the end
            assert Identity(path).load() is not None
        else:
            with pytest.raises(IdentityError, match=r"damaged|not a Tox identity"):
                Identity(path).load()


def test_both_generations_damaged_is_an_error_that_moves_nothing(path: Path, savedata: bytes) -> None:
    saved_twice(path, savedata)
    path.write_bytes(b"")
    previous(path).write_bytes(b"x")
    with pytest.raises(
        IdentityError, match=r"is empty, and identity.tox.previous is not a Tox identity; res"
    ):
        Identity(path).load()
    assert sorted(os.listdir(path.parent)) == ["identity.tox", "identity.tox.previous"]


def test_what_toxcore_does_not_take_is_damage(
    path: Path, savedata: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Sections that are whole, from a program that writes no checksum, with a public key not its own."""
    saved_twice(path, savedata)
    garbled = bytearray(savedata)
    garbled[20:40] = bytes(20)
    path.write_bytes(garbled)
    with start(savedata) as tox:
        key = tox.public_key
    settings = Settings(path, udp=False, local_discovery=False)
    with Client(settings, Handler()) as client:
        assert client.public_key == key
    assert "toxcore does not take it" in caplog.text
    path.write_bytes(garbled)
    previous(path).unlink()
    with pytest.raises(IdentityError, match="toxcore does not take it; restore it from a backup"):
        Client(settings, Handler())


def test_a_wrong_passphrase_is_not_taken_for_damage(path: Path, savedata: bytes) -> None:
    saved_twice(path, savedata, b"right")
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(IdentityError, match="does not open with this passphrase"):
        Identity(path, b"wrong").load()
    with pytest.raises(IdentityError, match="set passphrase_file"):
        Identity(path).load()
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_file_system_without_links_keeps_the_generation_before(
    path: Path, savedata: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    saved_twice(path, savedata)
    path.write_bytes(b"")
    assert Identity(path).load() == savedata


def test_a_pipe_is_not_waited_for(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(IdentityError, match="Not a regular file"):
        Identity(path).load()


def test_use_decides_what_is_damaged(path: Path, savedata: bytes) -> None:
    def use(data: bytes | None) -> bytes | None:
        if data != savedata:
            raise Damaged("is not ours")
        return data

    assert saved_twice(path, savedata).start(use) == savedata
