"""`tunfwd nodes`: what is shown, and lists from files and from a web server, however bad."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme

from tests.tox.test_nodes import document, entry

from .conftest import Result

Run = Callable[..., Result]
PLACE = "127.0.0.1"


def shown(number: int, **changes: Any) -> dict[str, Any]:
    plain = {
        "public_key": f"{number:064X}",
        "hosts": [f"192.0.2.{number}"],
        "port": 33445,
        "tcp_ports": [443, 3389],
        "origin": "bundled",
        "maintainer": "",
        "location": "NL",
        "asked": 0,
        "relay": False,
        "udp": None,
        "tcp": {},
        "error": None,
    }
    return plain | changes


def answer(*nodes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"network": "online", "public_nodes": True, "proxy": False, "nodes": list(nodes), **changes}


@pytest.fixture
def updated(daemon: Any) -> Any:
    """A daemon that takes nodes; what it got is in `calls`."""
    daemon.answers["nodes"] = answer()
    daemon.answers["nodes.update"] = {"added": ["AB" * 32], "total": 3, "public_nodes": True}
    return daemon


class Web(BaseHTTPRequestHandler):
    """Answers as the test says: by path, with a body, or with a function of the handler."""

    pages: ClassVar[dict[str, bytes | Callable[[Any], None]]] = {}

    def do_GET(self) -> None:
        page = self.pages.get(self.path)
        if page is None:
            self.send_error(404)
        elif callable(page):
            page(self)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The URL of a server on loopback, whose certificate the command trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    environment["SSL_CERT_FILE"] = str(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(PLACE).configure_cert(context)
    server = HTTPServer((PLACE, 0), Web)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://{PLACE}:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
    Web.pages.clear()


def given(daemon: Any) -> list[str]:
    """The keys that the daemon was given."""
    return [
        node["public_key"]
        for method, params in daemon.calls
        if method == "nodes.update"
        for node in params["nodes"]
    ]


def test_how_they_did(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["nodes"] = answer(
        shown(1, asked=2, relay=True, udp="answers", tcp={"443": "answers", "3389": "no answer"}),
        shown(2, hosts=["2001:db8::1"], origin="bootstrap", udp="no answer"),
        shown(3, hosts=["a.example"], port=None, origin="relays", error="does not resolve: no such host"),
    )
    result = tunfwd("nodes")
    assert result.code == 0
    first, second, third = result.out.splitlines()[1:]
    assert "192.0.2.1:33445" in first
    assert "connected" in first
    assert "answers (443), no answer (3389)" in first
    assert "[2001:db8::1]:33445" in second
    assert "a.example:443" in third
    assert "does not resolve: no such host" in third
    assert json.loads(tunfwd("nodes", "--json").out)["schema"] == 1
    tunfwd("nodes", "--test")
    assert [params for _, params in daemon.calls] == [{"test": False}, {"test": False}, {"test": True}]


def test_none(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["nodes"] = answer(public_nodes=False)
    result = tunfwd("nodes")
    assert (result.code, result.out) == (0, "")
    assert "public_nodes is off" in result.err


def test_a_list_from_a_file(updated: Any, tunfwd: Run, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(document(entry(1), entry(2)))
    result = tunfwd("nodes", "update", str(path))
    assert result.code == 0
    assert result.out == "1 new, 3 added in all; those that came with tunfwd are there as before\n"
    assert given(updated) == [f"{number:064X}" for number in (1, 2)]
    assert json.loads(tunfwd("nodes", "update", str(path), "--json").out)["total"] == 3


def test_a_list_from_the_web(updated: Any, tunfwd: Run, web: str) -> None:
    Web.pages["/json"] = document(entry(7))
    assert tunfwd("nodes", "update", f"{web}/json").code == 0
    assert given(updated) == [f"{7:064X}"]


def _redirect(to: str) -> Callable[[Any], None]:
    def page(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.end_headers()

    return page


def _cut(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(document(entry(1)))


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (None, "the server says 404 Not Found"),
        (b"<html>", "is not JSON"),
        (b" " * (600 << 10), "is longer than 512 KiB"),
        (document(entry(1))[:-9], "cut short"),
        (_cut, "the connection ended before the file did"),
        (_redirect("http://127.0.0.1/json"), "only https:// is fetched"),
        (_redirect("file:///etc/passwd"), "is not allowed"),
        (document(entry(1, public_key="X")), "is not a public key"),
    ],
)
def test_a_bad_one_changes_nothing(
    updated: Any, tunfwd: Run, web: str, page: bytes | Callable[[Any], None] | None, said: str
) -> None:
    if page is not None:
        Web.pages["/json"] = page
    result = tunfwd("nodes", "update", f"{web}/json")
    assert result.code in (1, 2)
    assert said in result.err
    assert len(result.err.splitlines()) == 1
    assert not given(updated)


def test_a_server_that_nobody_vouches_for(
    updated: Any, tunfwd: Run, web: str, environment: dict[str, str]
) -> None:
    del environment["SSL_CERT_FILE"]
    Web.pages["/json"] = document(entry(1))
    result = tunfwd("nodes", "update", f"{web}/json")
    assert result.code == 1
    assert "certificate" in result.err.lower()
    assert not given(updated)


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("http://127.0.0.1/json", 2, "only https:// is fetched"),
        ("file:///etc/passwd", 2, "only https:// is fetched"),
        ("https://127.0.0.1:1/json", 1, "Connection refused"),
        ("https:///", 1, "https:///"),
        ("https://[::1", 1, "https://[::1"),
        ("/nowhere/list.json", 1, "No such file"),
        ("/proc", 1, "/proc"),
    ],
)
def test_a_source_that_is_none(updated: Any, tunfwd: Run, source: str, code: int, said: str) -> None:
    result = tunfwd("nodes", "update", source)
    assert result.code == code
    assert said in result.err
    assert len(result.err.splitlines()) == 1
    assert not given(updated)


def test_nothing_is_fetched_past_a_proxy(updated: Any, tunfwd: Run, web: str, tmp_path: Path) -> None:
    Web.pages["/json"] = document(entry(1))
    updated.answers["nodes"] = answer(proxy=True)
    result = tunfwd("nodes", "update", f"{web}/json")
    assert result.code == 6
    assert "go around [tox] proxy" in result.err
    path = tmp_path / "list.json"
    path.write_bytes(document(entry(1)))
    assert tunfwd("nodes", "update", str(path)).code == 0


def test_a_friend_who_is_asked_later(daemon: Any, tunfwd: Run) -> None:
    nothing = dict.fromkeys(("address", "address6", "message"))
    friend = {"public_key": "AB" * 32, "name": "bob", "state": "offline", **nothing}
    daemon.answers["friend.add"] = {"friend": friend, "network": "offline"}
    address = "00" * 38
    result = tunfwd("friend", "add", address)
    assert "not connected yet: it goes out when we are" in result.out, result
    daemon.answers["friend.add"] = {"friend": friend, "network": "online"}
    assert tunfwd("friend", "add", address).out.startswith("bob has been asked")


def test_status_says_why_above_the_table(daemon: Any, tunfwd: Run) -> None:
    why = "connected to the Tox network for 12 s: 5 nodes asked, none answers; see: tunfwd doctor"
    daemon.answers["status"] = {
        "network": "offline",
        "contacts": [],
        "drops": {},
        "offline": f"not {why}",
    }
    assert tunfwd("status").err.splitlines()[0] == f"Not {why}"
