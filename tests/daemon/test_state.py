import json
import logging
import os
import stat
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunfwd.common.errors import ConfigurationError, UserError
from tunfwd.daemon.storage.state import (
    AcceptedMapping,
    Content,
    StandingOffer,
    StandingRequest,
    State,
    contact_id,
    group_id,
)

ALICE = contact_id(bytes(range(32)))
LAN = group_id(b"\xaa" * 32)
BOB = contact_id(b"\xbb" * 32, group=b"\xaa" * 32)


def _fill(content: Content) -> None:
    content.addresses[ALICE] = IPv4Address("10.77.3.9")
    content.names[ALICE] = "Alicé \u202e"
    content.offers.append(StandingOffer(LAN, "udp", 27015, "cs", "10.0.0.1:27015", "host"))
    content.mappings.append(AcceptedMapping(BOB, "server", "tcp", 0, "web", 9090))
    content.requests.append(StandingRequest(ALICE, "tcp", 22, "ssh", 2222))


def test_ids_tell_friends_members_and_groups_apart() -> None:
    assert bytes(range(32)).hex().upper() == ALICE
    assert BOB.startswith(LAN)
    assert len({ALICE, BOB, LAN}) == 3


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "state"
    with State.load(directory) as state:
        assert state.content == Content()
        _fill(state.content)
        state.save()
        expected = state.content
    with State.load(directory) as again:
        assert again.content == expected
        assert again.content is not expected
    assert sorted(file.name for file in directory.iterdir()) == ["lock", "state.json"]


def test_modes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = os.umask(0)
    try:
        directory = tmp_path / "state"
        with State.load(directory) as state:
            _fill(state.content)
            state.save()
        for path, mode in (
            (directory, 0o700),
            (directory / "state.json", 0o600),
            (directory / "lock", 0o600),
        ):
            assert stat.S_IMODE(path.stat().st_mode) == mode
        directory.chmod(0o755)
        State.load(directory).close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert "was open to others (mode 0755)" in caplog.text


def test_nothing_is_written_when_nothing_changed(tmp_path: Path) -> None:
    with State.load(tmp_path) as state:
        state.save()
        assert not (tmp_path / "state.json").exists()
        _fill(state.content)
        state.save()
        first = (tmp_path / "state.json").stat()
        state.save()
        assert (tmp_path / "state.json").stat() == first


def _saved(directory: Path) -> bytes:
    with State.load(directory) as state:
        _fill(state.content)
        state.save()
    return (directory / "state.json").read_bytes()


def test_a_file_cut_anywhere_is_kept_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = _saved(tmp_path)
    file = tmp_path / "state.json"
    for number, cut in enumerate([0, 1, *range(2, len(whole) - 2, 97)], start=1):
        file.write_bytes(whole[:cut])
        caplog.clear()
        with State.load(tmp_path) as state:
            assert state.content == Content()
        assert (tmp_path / f"state.json.corrupt-{number}").read_bytes() == whole[:cut]
        assert not file.exists()
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert f"kept as state.json.corrupt-{number}" in record.message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x00" * 4096, "Expecting value"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b"[]", "not a JSON object"),
        (b"{}", "schema is None"),
        (b'{"schema": "1"}', "schema is '1'"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"schema": %s}' % (b"9" * 5000), "Exceeds the limit"),
    ],
)
def test_garbage_is_kept_aside_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with State.load(tmp_path) as state:
        assert state.content == Content()
        _fill(state.content)
        state.save()
    assert (tmp_path / "state.json.corrupt-1").read_bytes() == content
    (record,) = caplog.records
    assert pytest.raises(AssertionError, match=reason).matches(AssertionError(record.message))


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_any_bytes_load_or_are_kept(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    directory = tmp_path_factory.mktemp("state")
    (directory / "state.json").write_bytes(content)
    with State.load(directory) as state:
        assert state.content == Content()
    assert (directory / "state.json.corrupt-1").read_bytes() == content


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    newer = json.dumps({"schema": 2, "things": []}).encode()
    (tmp_path / "state.json").write_bytes(newer)
    for _ in range(2):  # and the lock is let go of
        with pytest.raises(ConfigurationError, match="from a newer tunfwd"):
            State.load(tmp_path)
    assert (tmp_path / "state.json").read_bytes() == newer


def test_one_daemon_at_a_time(tmp_path: Path) -> None:
    with State.load(tmp_path):
        with pytest.raises(UserError, match=rf"another daemon uses .* \(process {os.getpid()}\)") as caught:
            State.load(tmp_path)
        assert caught.value.code == "failed"
    State.load(tmp_path).close()


def test_a_killed_daemon_leaves_the_directory_free(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tunfwd.daemon.storage.state import State\n"
        "s = State.load(Path(sys.argv[1]))\nprint('there', flush=True)\nsys.stdin.read()"
    )
    daemon = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"there\n"
        with pytest.raises(UserError, match=rf"process {daemon.pid}"):
            State.load(tmp_path)
    finally:
        daemon.kill()
        daemon.communicate(timeout=10)
    State.load(tmp_path).close()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _saved(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with State.load(tmp_path) as state:
        state.content.names[BOB] = "bob"
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                state.save()
        assert (tmp_path / "state.json").read_bytes() == whole
        assert sorted(file.name for file in tmp_path.iterdir()) == ["lock", "state.json"]
        state.save()  # what failed is tried again
    assert b"bob" in (tmp_path / "state.json").read_bytes()


def test_killed_while_saving_the_file_is_whole(tmp_path: Path) -> None:
    """A process saves two contents in turn until it is killed; what is there afterwards is one of them."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom tunfwd.daemon.storage.state import State\n"
        "s = State.load(Path(sys.argv[1]))\n"
        "while True:\n"
        "    for n in 1, 5000:\n"
        "        s.content.names = {f'{i:064X}': 'x' * 20 for i in range(n)}\n"
        "        s.save(); print(n, flush=True)\n"
    )
    for _ in range(5):
        daemon = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
        assert daemon.stdout is not None
        try:
            for _ in range(3):
                daemon.stdout.readline()
        finally:
            daemon.kill()
            daemon.communicate(timeout=10)
        with State.load(tmp_path) as state:
            assert len(state.content.names) in (1, 5000)
        assert not list(tmp_path.glob("*.corrupt-*"))


def test_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"the state directory .*/file is a file"):
        State.load(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="the state directory"):
        State.load(tmp_path / "file" / "below")


def _document(**entries: object) -> bytes:
    return json.dumps({"schema": 1, **entries}).encode()


GOOD = {"contact": ALICE, "protocol": "tcp", "port": 80}


@pytest.mark.parametrize(
    ("name", "entries", "kept", "reason"),
    [
        ("addresses", {"A": "10.77.3.9"}, 0, "addresses.A is not the id of a contact or group"),
        ("addresses", {ALICE: "10.77.3.9", BOB: "10.77.3"}, 1, "Expected 4 octets"),
        ("addresses", [1], 0, "addresses must be a table, not a list"),
        ("names", {ALICE: "alice", BOB: 7}, 1, "must be a string"),
        ("names", {ALICE: "\ud800"}, 0, "is not valid Unicode text"),
        ("names", {"..": "x"}, 0, "is not the id of a contact or group"),
        ("offers", [GOOD, {"contact": ALICE}], 1, r"offers[1] 'port' is missing"),
        ("offers", [GOOD, {**GOOD, "port": 0}], 1, "offers[1].port 0 is not a port"),
        ("offers", [GOOD, {**GOOD, "port": 10**400}], 1, "offers[1].port"),
        ("offers", [GOOD, {**GOOD, "target": "nowhere"}], 1, "is not HOST:PORT"),
        ("offers", [GOOD, {**GOOD, "name": "x" * 256}], 1, "is too long for a name"),
        ("offers", [GOOD, {**GOOD, "contact": "group:lan"}], 1, "is not the id of a contact or group"),
        ("offers", [GOOD, {**GOOD, "source": "elsewhere"}], 1, "must be one of"),
        ("offers", {"a": 1}, 0, "offers must be a list, not a table"),
        ("mappings", [{**GOOD, "direction": "server", "port": 65536}], 0, "must be a port, or 0 for any"),
        ("mappings", [{**GOOD, "direction": "server", "target": ":"}], 0, "is not HOST:PORT"),
        ("requests", [GOOD, {**GOOD, "local_port": -1}, None], 1, "-1 is not a port"),
        ("unheard", 1, None, "unheard is not known"),
    ],
)
def test_an_entry_that_does_not_fit_is_the_loss_of_that_one(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    entries: object,
    kept: int | None,
    reason: str,
) -> None:
    (tmp_path / "state.json").write_bytes(_document(**{"names": {BOB: "bob"}, name: entries}))
    with State.load(tmp_path) as state:
        if kept is not None:
            assert len(getattr(state.content, name)) == kept
        assert name == "names" or state.content.names == {BOB: "bob"}
        assert any(reason in aside.reason for aside in state.content.aside)
        assert reason in caplog.text
        state.save()
        before = state.content
    caplog.clear()
    with State.load(tmp_path) as again:  # and it is said once
        assert again.content == before
    assert not caplog.records


def test_many_that_do_not_fit_are_told_in_a_few_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state.json").write_bytes(_document(names={str(n): "x" for n in range(1000)}))
    with State.load(tmp_path) as state:
        assert len(state.content.aside) == 256
        assert state.content.aside[-1].entry == '{"999": "x"}'
    assert len(caplog.records) == 9
    assert "992 more entries are put aside" in caplog.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
IDS = st.sampled_from([ALICE, BOB, LAN, "A", "", "conference:" + "0" * 64])
STANDING = st.fixed_dictionaries(
    {},
    optional={
        "contact": IDS | JSON,
        "protocol": st.sampled_from(["tcp", "udp"]) | JSON,
        "port": st.integers(-1, 65536) | st.just(10**400) | JSON,
        "name": st.text(max_size=300) | JSON,
        "direction": st.sampled_from(["server", "connection"]) | JSON,
        "local_port": st.integers(-1, 65536) | JSON,
        "target": st.sampled_from(["127.0.0.1:1", "[::1]:2", "a:b"]) | JSON,
        "source": st.sampled_from(["auto", "peer"]) | JSON,
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"schema": st.just(1)},
    optional={
        "addresses": st.dictionaries(IDS, st.ip_addresses(v=4).map(str) | JSON) | JSON,
        "names": st.dictionaries(IDS, st.text() | JSON) | JSON,
        "offers": st.lists(STANDING | JSON) | JSON,
        "mappings": st.lists(STANDING | JSON) | JSON,
        "requests": st.lists(STANDING | JSON) | JSON,
        "aside": JSON,
        "unheard": JSON,
    },
)


@settings(max_examples=100, deadline=None)
@given(DOCUMENTS)
def test_any_document_loads_and_what_is_saved_of_it_loads_the_same(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, object]
) -> None:
    directory = tmp_path_factory.mktemp("state")
    (directory / "state.json").write_text(json.dumps(document))
    with State.load(directory) as state:
        state.save()
        content = state.content
    with State.load(directory) as again:
        assert again.content == content
    assert not list(directory.glob("*.corrupt-*"))


@pytest.mark.parametrize("damage", ["missing", "empty", "zeros", "cut", "directory", "pipe", "loop"])
def test_the_generation_before_is_used_when_the_file_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    _saved(tmp_path)
    with State.load(tmp_path) as state:
        state.content.names = {BOB: "bob"}
        state.save()
    _fill(expected := Content())
    file = tmp_path / "state.json"
    whole = file.read_bytes()
    file.unlink()
    match damage:
        case "directory":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case "loop":
            file.symlink_to(file)
        case "empty" | "zeros" | "cut":
            file.write_bytes({"empty": b"", "zeros": bytes(len(whole)), "cut": whole[:-2]}[damage])
    with State.load(tmp_path) as state:
        assert state.content == expected
        state.save()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "1 addresses, 1 names, 1 offers, 1 mappings, 1 requests" in record.message
    assert os.path.lexists(tmp_path / "state.json.corrupt-1") == (damage != "missing")
    caplog.clear()
    with State.load(tmp_path) as state:
        assert state.content == expected
    assert not caplog.records


def test_an_identity_that_is_missing_beside_its_contacts_is_an_error(tmp_path: Path) -> None:
    with State.load(tmp_path) as state:
        assert state.identity() == tmp_path / "identity.tox"
        _fill(state.content)
        with pytest.raises(
            ConfigurationError, match=r"knows of 3 contacts: restore it from a backup, or move"
        ):
            state.identity()
        for name in ("identity.tox", "identity.tox.previous"):  # empty or not: who reads it tells
            (tmp_path / name).write_bytes(b"")
            assert state.identity() == tmp_path / "identity.tox"
            (tmp_path / name).unlink()
        (tmp_path / "identity.tox").symlink_to(tmp_path / "elsewhere" / "identity.tox")
        with pytest.raises(ConfigurationError, match="is missing"):
            state.identity()


def test_a_full_disk_keeps_nobody_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _saved(tmp_path)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with State.load(tmp_path) as state:
        assert state.content.names
