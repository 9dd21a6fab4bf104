"""The server over real sockets; time is trio's own, jumped over where nothing is left to happen."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC221, ASYNC240  a test may look at a file for a moment

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.control.client import Client
from tunfwd.control.dispatch import Dispatcher
from tunfwd.control.listener import listening
from tunfwd.control.protocol import MAX_REQUEST, decode_request, encode_error
from tunfwd.control.server import (
    IDLE_TIME,
    LINE_TIME,
    MAX_BAD_LINES,
    MAX_CONNECTIONS,
    Handler,
    serve,
)


async def echo(method: str, params: dict[str, object]) -> Mapping[str, object]:
    match method:
        case "refuse":
            raise UserError("denied", "not you")
        case "break":
            raise RuntimeError("a mistake of ours")
        case "unprintable":
            return {"socket": object()}
        case "sleep":
            await trio.sleep_forever()
    return {"method": method, "params": params}


@asynccontextmanager
async def serving(path: Path, handler: Handler = echo, group: str | None = None) -> AsyncIterator[None]:
    with listening(path, group) as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, listener, handler)
            yield
            nursery.cancel_scope.cancel()


class Peer:
    """A client that sends what it likes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    @classmethod
    async def connect(cls, path: Path) -> "Peer":
        return cls(await trio.open_unix_socket(path))

    async def answer(self) -> dict[str, object] | None:
        """The next answer; None when the server hangs up."""
        with trio.fail_after(20_000):
            while b"\n" not in self.buffer:
                try:
                    data = await self.stream.receive_some()
                except trio.BrokenResourceError:  # hung up with bytes of ours unread
                    return None
                if not data:
                    return None
                self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    async def call(self, line: bytes) -> dict[str, object] | None:
        await self.stream.send_all(line)
        return await self.answer()


async def send_until_hung_up_on(stream: trio.SocketStream, data: bytes, pause: float = 0) -> None:
    with trio.fail_after(20_000), suppress(trio.BrokenResourceError):
        while True:
            await stream.send_all(data)
            await trio.sleep(pause)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


async def test_calls_in_order_on_one_connection(path: Path) -> None:
    async with serving(path), (await Peer.connect(path)).stream as stream:
        peer = Peer(stream)
        first = b'{"id": 1, "method": "a", "params": {"x": [1]}}\n'
        assert await peer.call(first) == {"id": 1, "result": {"method": "a", "params": {"x": [1]}}}
        await stream.send_all(b'{"id": 2, "method": "b"}\n{"id": 3, "method": "refuse"}\n{"id": 4, "meth')
        assert await peer.answer() == {"id": 2, "result": {"method": "b", "params": {}}}
        assert await peer.answer() == {"id": 3, "error": {"code": "denied", "message": "not you"}}
        assert await peer.call(b'od": "c"}\n') == {"id": 4, "result": {"method": "c", "params": {}}}


async def test_byte_by_byte(path: Path) -> None:
    async with serving(path), (await Peer.connect(path)).stream as stream:
        for byte in b'{"id": 1, "method": "a"}':
            await stream.send_all(bytes([byte]))
        assert await Peer(stream).call(b"\n") == {"id": 1, "result": {"method": "a", "params": {}}}


@pytest.mark.parametrize("method", ["break", "unprintable"])
async def test_a_mistake_in_a_handler_fails_that_call_alone(
    path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(path), (await Peer.connect(path)).stream as stream:
        peer = Peer(stream)
        answer = await peer.call(b'{"id": 1, "method": "%s"}\n' % method.encode())
        assert answer == {
            "id": 1,
            "error": {"code": "failed", "message": "an error inside the daemon; its log says more"},
        }
        assert f"the request {method} failed" in caplog.text
        answer = await peer.call(b'{"id": 2, "method": "a"}\n')
        assert answer is not None
        assert "result" in answer


async def test_half_closed_client_gets_its_answer(path: Path) -> None:
    async with serving(path), (await Peer.connect(path)).stream as stream:
        await stream.send_all(b'{"id": 1, "method": "a"}\n')
        await stream.send_eof()
        peer = Peer(stream)
        assert await peer.answer() == {"id": 1, "result": {"method": "a", "params": {}}}
        assert await peer.answer() is None


async def test_a_client_that_hangs_up_takes_its_request_with_it(path: Path) -> None:
    given_up = trio.Event()
    started = trio.Event()

    async def handler(method: str, params: dict[str, object]) -> Mapping[str, object]:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            given_up.set()
        raise AssertionError

    async with serving(path, handler):
        async with (await Peer.connect(path)).stream as stream:
            await stream.send_all(b'{"id": 1, "method": "ping"}\n')
            await started.wait()
        with trio.fail_after(60):
            await given_up.wait()


async def test_a_client_that_hangs_up_while_it_asks_more_is_no_fault(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its first answer fails while the second request waits to be taken."""
    go_on = trio.Event()

    async def handler(method: str, params: dict[str, object]) -> Mapping[str, object]:
        await go_on.wait()
        return {}

    async with serving(path, handler):
        async with (await Peer.connect(path)).stream as stream:
            await stream.send_all(3 * b'{"id": 1, "method": "ping"}\n')
            await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        await trio.testing.wait_all_tasks_blocked()
    assert caplog.records == []


async def test_a_request_without_end_times_out(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with serving(path), (await Peer.connect(path)).stream as stream:
        answer = await Peer(stream).call(b'{"id": 1, "method": "sleep"}\n')
        assert answer == {"id": 1, "error": {"code": "timeout", "message": "sleep took too long"}}


async def test_garbage_is_answered_then_hung_up_on(path: Path) -> None:
    async with serving(path), (await Peer.connect(path)).stream as stream:
        peer = Peer(stream)
        await stream.send_all(b"GET / HTTP/1.1\r\n" * (MAX_BAD_LINES + 5))
        for _ in range(MAX_BAD_LINES):
            answer = await peer.answer()
            assert answer == {
                "id": None,
                "error": {"code": "usage", "message": "a line holds one JSON object, each key of it once"},
            }
        assert await peer.answer() is None


async def test_endless_line_is_refused(path: Path) -> None:
    async with serving(path), (await Peer.connect(path)).stream as stream:
        peer = Peer(stream)
        await stream.send_all(b"x" * (MAX_REQUEST - 1))
        answer = await peer.call(b"x")
        assert answer == {"id": None, "error": {"code": "usage", "message": "a line has at most 65536 bytes"}}
        assert await peer.answer() is None


async def test_flood_without_reading_costs_a_bounded_buffer_and_ends(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def large(method: str, params: dict[str, object]) -> Mapping[str, object]:
        return {"large": "x" * 100_000}

    async with serving(path, large), (await Peer.connect(path)).stream as stream:
        await send_until_hung_up_on(stream, b'{"id": 1, "method": "a"}\n' * 1000)  # and never read
        async with (await Peer.connect(path)).stream as other:
            assert await Peer(other).call(b'{"id": 1, "method": "a"}\n') is not None


async def test_who_asks_without_end_keeps_nobody_waiting(path: Path) -> None:
    count = 1000
    asked: list[str] = []

    async def note(method: str, params: dict[str, object]) -> dict[str, object]:
        asked.append(method)
        return {}

    async with serving(path, note), (await Peer.connect(path)).stream as stream:
        eager, other = Peer(stream), await Peer.connect(path)
        async with other.stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, b'{"id": 1, "method": "eager"}\n' * count)
            assert await eager.answer() is not None
            assert await other.call(b'{"id": 1, "method": "other"}\n') is not None
            assert len(asked) < count
            for _ in range(1, count):
                assert await eager.answer() is not None
    assert len(asked) == count + 1


async def test_a_new_client_is_served_however_many_are_idle(path: Path) -> None:
    """Of those with nothing to say, or half a line, the one that has been idle for longest gives way."""
    async with serving(path), AsyncExitStack() as stack:

        async def connect() -> Peer:
            peer = await Peer.connect(path)
            await stack.enter_async_context(peer.stream)
            return peer

        peers = [await connect() for _ in range(MAX_CONNECTIONS)]
        for number, peer in enumerate(peers[:-1]):
            if number % 2:
                assert await peer.call(b'{"id": 1, "method": "a"}\n') is not None
            else:
                await peer.stream.send_all(b'{"id": 1, "met')
        await trio.testing.wait_all_tasks_blocked(0.05)
        for _ in range(3 * MAX_CONNECTIONS):
            assert await (await connect()).call(b'{"id": 1, "method": "a"}\n') is not None
        assert all([await peer.answer() is None for peer in peers])


async def test_the_longest_idle_one_gives_way_and_no_other(path: Path) -> None:
    async with serving(path), AsyncExitStack() as stack:
        peers = [await Peer.connect(path) for _ in range(MAX_CONNECTIONS)]
        for peer in peers:
            await stack.enter_async_context(peer.stream)
        for peer in (peers[1], peers[0], *peers[2:]):
            assert await peer.call(b'{"id": 1, "method": "a"}\n') is not None
        extra = await Peer.connect(path)
        await stack.enter_async_context(extra.stream)
        assert await extra.call(b'{"id": 1, "method": "a"}\n') is not None
        assert await peers[1].answer() is None
        for peer in (peers[0], *peers[2:]):
            assert await peer.call(b'{"id": 1, "method": "a"}\n') is not None


async def test_clients_that_are_waited_for_do_not_give_way(path: Path) -> None:
    async with serving(path), AsyncExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            peer = await Peer.connect(path)
            await stack.enter_async_context(peer.stream)
            await peer.stream.send_all(b'{"id": 1, "method": "sleep"}\n')
        await trio.testing.wait_all_tasks_blocked(0.05)
        extra = await Peer.connect(path)
        await stack.enter_async_context(extra.stream)
        answer = await extra.answer()
        assert answer is not None
        assert "64 clients already" in str(answer["error"])
        assert await extra.answer() is None


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [(b"", IDLE_TIME), (b'{"id": 1', LINE_TIME), (b'{"id": 1, "method": "a"}\n', IDLE_TIME)],
)
async def test_silence_is_hung_up_on(
    path: Path, autojump_clock: trio.testing.MockClock, sent: bytes, seconds: float
) -> None:
    async with serving(path), (await Peer.connect(path)).stream as stream:
        peer = Peer(stream)
        began = trio.current_time()
        if sent:
            await stream.send_all(sent)
        if sent.endswith(b"\n"):
            assert await peer.answer() is not None
        assert await peer.answer() is None
        assert trio.current_time() - began == pytest.approx(seconds, abs=1)


async def test_dripping_bytes_do_not_prolong_a_line(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(path), (await Peer.connect(path)).stream as stream:
        began = trio.current_time()
        await send_until_hung_up_on(stream, b"x", pause=1)
        assert trio.current_time() - began < 2 * LINE_TIME


async def test_mode_owner_and_removal(path: Path) -> None:
    async with serving(path):
        status = path.stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()


async def test_no_moment_of_lax_permissions(path: Path) -> None:
    """The mode the file is born with, under the laxest umask."""
    code = (
        "import os, sys, trio; os.umask(0)\n"
        "from pathlib import Path\n"
        "import socket\n"
        "bind = socket.socket.bind\n"
        "def watched(self, address):\n"
        "    bind(self, address)\n"
        "    print(oct(os.stat(address).st_mode & 0o777), flush=True)\n"
        "socket.socket.bind = watched\n"
        "from tunfwd.control.listener import listening\n"
        "with listening(Path(sys.argv[1]), None): pass\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=30, check=True
    )
    assert result.stdout == "0o600\n"


async def test_second_daemon_is_told(path: Path) -> None:
    async with serving(path):
        with pytest.raises(UserError, match="already running") as caught, listening(path, None):
            pass
        assert caught.value.code == "failed"
        with Client(path):  # and the first one still has its socket
            pass


async def test_socket_of_a_dead_daemon_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    assert path.exists()
    async with serving(path), (await Peer.connect(path)).stream as stream:
        assert await Peer(stream).call(b'{"id": 1, "method": "a"}\n') is not None


async def test_killed_daemon_leaves_nothing_in_the_way(path: Path) -> None:
    code = (
        "import pathlib, sys, time\nfrom tunfwd.control.listener import listening\n"
        "with listening(pathlib.Path(sys.argv[1]), None):\n    time.sleep(60)"
    )
    daemon = subprocess.Popen([sys.executable, "-c", code, path])
    try:
        with trio.fail_after(20):
            while not path.exists():
                await trio.sleep(0.02)
        with pytest.raises(UserError, match="already running"), listening(path, None):
            pass
    finally:
        daemon.kill()
        daemon.wait(10)
    async with serving(path):
        pass


async def test_what_is_no_socket_is_not_replaced(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(UserError, match="something else is in the way") as caught, listening(path, None):
        pass
    assert caught.value.code == "configuration"
    assert path.read_text() == "precious"


async def test_impossible_paths(tmp_path: Path) -> None:
    for bad in (tmp_path / ("x" * 120), Path("/proc/nowhere/control.sock")):
        with pytest.raises(UserError) as caught, listening(bad, None):
            pass
        assert caught.value.code == "configuration"
    with (
        pytest.raises(UserError, match="no group 'no-such-group'"),
        listening(tmp_path / "s", "no-such-group"),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")
class TestOtherUsers:
    """Connections by other users than the daemon's, in processes of their own."""

    GROUP = "daemon"  # gid 1 on every Debian

    @staticmethod
    def connect_as(path: Path, uid: int, gid: int, groups: list[int]) -> str:
        code = (
            "import os, sys, socket\n"
            f"os.setgroups({groups}); os.setgid({gid}); os.setuid({uid})\n"
            "s = socket.socket(socket.AF_UNIX)\n"
            "try: s.connect(sys.argv[1])\n"
            "except OSError as e: print(type(e).__name__); sys.exit()\n"
            'try: s.sendall(b\'{"id": 1, "method": "a"}\\n\')\n'
            "except BrokenPipeError: pass\n"  # turned away already
            "print(s.makefile().readline())\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=30, check=True
        )
        return result.stdout

    @pytest.fixture
    def open_path(self) -> Iterator[Path]:
        """Not below pytest's own directory, which every pytest that starts closes to others."""
        with tempfile.TemporaryDirectory(prefix="tunfwd-control-", dir="/tmp") as name:
            directory = Path(name)
            directory.chmod(0o755)
            yield directory / "run" / "control.sock"

    async def connect(self, path: Path, uid: int, gid: int, groups: list[int]) -> str:
        return await trio.to_thread.run_sync(self.connect_as, path, uid, gid, groups)

    async def test_without_a_group_nobody_else_connects(self, open_path: Path) -> None:
        async with serving(open_path):
            open_path.parent.chmod(0o755)
            assert await self.connect(open_path, 65534, 65534, []) == "PermissionError\n"
            open_path.chmod(0o666)  # even if the file's mode were lost
            assert "you may not use this daemon" in await self.connect(open_path, 65534, 65534, [])
            assert '"result"' in await self.connect(open_path, 0, 0, [])

    async def test_members_of_the_group_connect(self, open_path: Path) -> None:
        async with serving(open_path, group=self.GROUP):
            assert stat.S_IMODE(open_path.stat().st_mode) == 0o660
            assert open_path.stat().st_gid == 1
            assert '"result"' in await self.connect(open_path, 65534, 1, [])
            assert '"result"' in await self.connect(open_path, 65534, 65534, [4, 1])
            assert await self.connect(open_path, 65534, 65534, [4]) == "PermissionError\n"
            open_path.chmod(0o666)
            assert "you may not use" in await self.connect(open_path, 65534, 65534, [4])

    async def test_a_group_needs_no_privilege_once_the_listener_is_made(self, open_path: Path) -> None:
        code = (
            "import sys, trio\nfrom pathlib import Path\n"
            "from tunfwd.control.listener import listening\nfrom tunfwd.control.server import serve\n"
            "from tunfwd.tun.privileges import drop\n"
            "async def echo(method, params): return {'method': method}\n"
            f"with listening(Path(sys.argv[1]), '{self.GROUP}') as listener:\n"
            "    drop()\n    print(flush=True)\n    trio.run(serve, listener, echo)\n"
        )
        daemon = subprocess.Popen([sys.executable, "-c", code, open_path], stdout=subprocess.PIPE)
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == b"\n"
            assert '"result"' in await self.connect(open_path, 65534, 65534, [1])
            assert await self.connect(open_path, 65534, 65534, [4]) == "PermissionError\n"
        finally:
            daemon.kill()
            daemon.communicate(timeout=10)


async def test_dispatch(path: Path) -> None:
    async def ping(params: api.Ping) -> api.PingResult:
        return {"contact": params.name, "seconds": params.timeout, "path": "direct"}

    dispatcher = Dispatcher()
    dispatcher.add(api.PING, ping)
    async with serving(path, dispatcher), (await Peer.connect(path)).stream as stream:  # type: ignore[arg-type]
        peer = Peer(stream)
        answer = await peer.call(b'{"id": 1, "method": "ping", "params": {"name": "alice", "timeout": 2}}\n')
        assert answer == {"id": 1, "result": {"contact": "alice", "seconds": 2.0, "path": "direct"}}
        for line, message in (
            (b'{"id": 2, "method": "ping", "params": {"timeout": 2}}\n', "'name' is missing"),
            (b'{"id": 2, "method": "ping", "params": {"name": 1}}\n', "name must be a string"),
            (
                b'{"id": 2, "method": "ping", "params": {"name": "a", "timeout": -1}}\n',
                "timeout must be more",
            ),
            (b'{"id": 2, "method": "pong"}\n', "knows no method 'pong'"),
        ):
            answer = await peer.call(line)
            assert answer is not None
            error = answer["error"]
            assert isinstance(error, dict)
            assert error["code"] == "usage"
            assert message in error["message"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**63, 2**64, 65536, -1, 0])
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["", "\0", "\ud800", "x" * 60_000, "group:", "group:/", "conference:", "..", "*", "0" * 76]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
METHODS = [value for value in vars(api).values() if isinstance(value, api.Method)]


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    """A method, and for its parameters whatever JSON has; now and then one that is right."""
    method = draw(st.sampled_from(METHODS))
    keys = [*method.params.__annotations__]
    right = st.sampled_from(["alice", "tcp", 80, ["alice"], "127.0.0.1:80", 2.5, "F" * 64])
    params = draw(st.fixed_dictionaries({}, optional={key: right | JSON for key in [*keys, "unheard"]}))
    return method.name, params


@settings(max_examples=300, deadline=None)
@given(calls())
def test_whatever_the_parameters_are_they_are_taken_or_refused_as_a_mistake_of_usage(
    call: tuple[str, dict[str, object]],
) -> None:
    taken: list[object] = []

    async def handler(params: object) -> Mapping[str, object]:
        taken.append(params)
        return {}

    async def run() -> None:
        dispatcher = Dispatcher()
        for method in METHODS:
            dispatcher.add(method, handler)
        line = json.dumps({"id": 1, "method": call[0], "params": call[1]}).encode()
        refusals: list[UserError] = []
        try:
            request = decode_request(line)
            await dispatcher(request.method, request.params)
        except UserError as refused:
            refusals.append(refused)
        assert len(refusals) + len(taken) == 1
        for refusal in refusals:
            assert refusal.code == "usage"
            assert len(encode_error(1, refusal)) < 16 * MAX_REQUEST

    trio.run(run)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (f'{{"name": "a", "timeout": {"9" * 400}}}', "timeout is too large a number"),
        (f'{{"name": "a", "timeout": -{"9" * 400}}}', "timeout is too large a number"),
        ('{"name": "a", "timeout": 1e400}', "timeout must be a finite number"),
        ('{"name": "a", "timeout": NaN}', "one JSON object"),
        ('{"name": "a", "timeout": Infinity}', "one JSON object"),
        ('{"name": "a", "name": "b"}', "each key of it once"),
        ('{"name": "\\ud800"}', "name is not valid Unicode text"),
        (f'{{"name": {"[" * 400}1{"]" * 400}}}', "name must be a string, not a list"),
        (f'{{"name": {"[" * 30_000}1{"]" * 30_000}}}', "one JSON object"),
        ('{"name": "a", "timeout": "5"}', "timeout must be a number, not a string"),
        ('{"name": "a", "timeout": true}', "timeout must be a number"),
    ],
)
async def test_numbers_and_nesting_beyond_all_bounds(path: Path, params: str, message: str) -> None:
    async def ping(params: api.Ping) -> api.PingResult:
        raise AssertionError

    dispatcher = Dispatcher()
    dispatcher.add(api.PING, ping)
    async with serving(path, dispatcher), (await Peer.connect(path)).stream as stream:  # type: ignore[arg-type]
        answer = await Peer(stream).call(b'{"id": 1, "method": "ping", "params": %s}\n' % params.encode())
        assert answer is not None
        error = answer["error"]
        assert isinstance(error, dict)
        assert error["code"] == "usage"
        assert message in error["message"]


@pytest.mark.parametrize(("group", "mode"), [(None, 0o700), (str(os.getegid()), 0o711)])
def test_a_directory_of_an_earlier_run_is_opened_for_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str | None, mode: int
) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr("tunfwd.control.listener.group_id", lambda name: None if name is None else int(name))
    with listening(folder / "control.sock", group):
        assert stat.S_IMODE(folder.stat().st_mode) == mode
