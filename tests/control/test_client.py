import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.control.client import Client

Behaviour = Callable[[socket.socket], None]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[[Behaviour], Path]]:
    """A socket whose other end behaves as told, once."""
    threads = []
    with socket.socket(socket.AF_UNIX) as listener:

        def start(behave: Behaviour) -> Path:
            path = tmp_path / "control.sock"
            listener.bind(os.fspath(path))
            listener.listen()

            def run() -> None:
                peer, _ = listener.accept()
                with peer:
                    behave(peer)

            thread = threading.Thread(target=run)
            thread.start()
            threads.append(thread)
            return path

        yield start
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


def _answer(line: bytes) -> Behaviour:
    def behave(peer: socket.socket) -> None:
        peer.recv(1 << 16)
        peer.sendall(line)

    return behave


VERSION = b'{"id":1,"result":{"version":"1","compiled":false,"toxcore":"0.2.20","new":true}}\n'


def test_a_result_in_its_shape_without_what_is_new_to_us(daemon: Callable[[Behaviour], Path]) -> None:
    with Client(daemon(_answer(VERSION))) as client:
        assert client.call(api.VERSION, {}) == {"version": "1", "compiled": False, "toxcore": "0.2.20"}


def test_an_answer_in_pieces(daemon: Callable[[Behaviour], Path]) -> None:
    def behave(peer: socket.socket) -> None:
        peer.recv(1 << 16)
        for i in range(0, len(VERSION), 7):
            peer.sendall(VERSION[i : i + 7])
            time.sleep(0.001)

    with Client(daemon(behave)) as client:
        assert client.call(api.VERSION, {})["version"] == "1"


def test_what_is_sent_leaves_none_out(daemon: Callable[[Behaviour], Path]) -> None:
    received = []

    def behave(peer: socket.socket) -> None:
        received.append(peer.recv(1 << 16))
        peer.sendall(b'{"id":1,"error":{"code":"offline","message":"alice is offline"}}\n')

    with Client(daemon(behave)) as client, pytest.raises(UserError, match="alice is offline") as caught:
        client.call(api.OFFER_ACCEPT, {"offer": "web", "contact": None, "port": 80})
    assert received == [b'{"id":1,"method":"offer.accept","params":{"offer":"web","port":80}}\n']
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (b"", "failed", "closed the connection"),
        (b'{"id":1,', "failed", "closed the connection"),
        (b"nonsense\n", "usage", "one JSON object"),
        (
            b'{"id":1,"result":{"version":1,"compiled":false,"toxcore":""}}\n',
            "failed",
            "version must be a string",
        ),
        (b'{"id":1,"result":{}}\n', "failed", "is it another version"),
    ],
)
def test_answers_that_are_none(
    daemon: Callable[[Behaviour], Path], line: bytes, code: str, message: str
) -> None:
    with Client(daemon(_answer(line))) as client, pytest.raises(UserError, match=message) as caught:
        client.call(api.VERSION, {})
    assert caught.value.code == code


def test_turned_away_before_anything_was_read(daemon: Callable[[Behaviour], Path]) -> None:
    closed = threading.Event()

    def behave(peer: socket.socket) -> None:
        peer.sendall(b'{"id":null,"error":{"code":"denied","message":"not you"}}\n')
        peer.close()
        closed.set()

    with Client(daemon(behave)) as client:
        assert closed.wait(10)
        with pytest.raises(UserError, match="not you") as caught:
            client.call(api.VERSION, {})
    assert caught.value.code == "denied"


def test_no_answer_in_time(daemon: Callable[[Behaviour], Path]) -> None:
    done = threading.Event()

    def behave(peer: socket.socket) -> None:
        while not done.wait(0.02):
            peer.sendall(b" ")  # something, but never a line

    with Client(daemon(behave), timeout=0.2) as client:
        began = time.monotonic()
        with pytest.raises(UserError, match=r"within 0\.2 s") as caught:
            client.call(api.VERSION, {})
        assert time.monotonic() - began < 5
        done.set()
    assert caught.value.code == "timeout"


def test_bad_parameters_never_leave(daemon: Callable[[Behaviour], Path]) -> None:
    with Client(daemon(lambda peer: None)) as client, pytest.raises(UserError, match="port") as caught:
        client.call(api.OFFER_ADD, {"protocol": "tcp", "port": 0, "to": ["alice"]})
    assert caught.value.code == "usage"


def test_nobody_there(tmp_path: Path) -> None:
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.fspath(dead))
    for path in (tmp_path / "none.sock", dead, dead / "below"):
        with pytest.raises(UserError, match="tunfwd daemon") as caught:
            Client(path)
        assert caught.value.code == "no_daemon"


def test_a_daemon_that_accepts_nobody(tmp_path: Path) -> None:
    path = tmp_path / "busy.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen(0)
        with Client(path), pytest.raises(UserError) as caught:
            Client(path, timeout=0.1)
    assert caught.value.code == "timeout"
