"""`tunfwd web`: who is let in, what is answered, what a page is told; the real server, asked by HTTP."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tunfwd.cli.qr import rows
from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.control.client import Client
from tunfwd.web.access import HEADERS, Tokens
from tunfwd.web.model import EVENTS, SAMPLES, Asking, Model, Seen, Told
from tunfwd.web.server import ACTIONS, STATIC, Live, Page, Server, listen

from .conftest import Daemon
from .samples import KEY
from .test_watch import contact, offer, pending, status

PATIENCE = 60.0  # s
CHECKS: list[api.Check] = [{"name": "tun", "ok": True, "level": "ok", "detail": "there"}]
ME = {
    "address": "AB" * 38,
    "public_key": "AB" * 32,
    "dht_key": "CD" * 32,
    "udp_port": 33445,
    "nickname": "alice",
    "virtual_address": "10.77.0.1",
    "virtual_address6": "fd74::1",
    "interface": "tunfwd0",
    "version": "1",
    "toxcore": "0.2.20",
}


def event(number: int, text: str = "bob is online") -> dict[str, Any]:
    return {"seq": number, "time": "2026-11-27T10:00:00+00:00", "event": "online", "text": text}


def happened(*events: dict[str, Any], after: str = "00000000.0.0") -> dict[str, Any]:
    return {"events": list(events), "next": after, "lost": 0}


def answers(*contacts: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": ME,
        "status": status(*contacts),
        "offer.list": {"offers": [offer()]},
        "friend.list": {"friends": [pending()]},
        "ports": {"ports": []},
        "invite.list": {"invites": []},
        "events": happened(event(1)),
    }


def seen(*contacts: dict[str, Any], **changes: Any) -> Seen:
    all_of_it = answers(*contacts)
    parts = ("id", "status", "offer.list", "friend.list", "ports", "invite.list", "events")
    return Seen(*(changes.get(part, all_of_it[part]) for part in parts))


# --- a server, and a plain browser


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Site:
    """The page as it is served."""

    port: int
    tokens: Tokens

    def ask(
        self, path: str, method: str = "GET", body: str | None = None, **changes: str | list[str] | None
    ) -> Reply:
        """One request as a page of this site makes it, but for headers that are changed; None: without."""
        headers: dict[str, Any] = {
            "Host": f"127.0.0.1:{self.port}",
            "Cookie": self.tokens.cookie.partition(";")[0],
        }
        if method == "POST":
            headers |= {"Origin": f"http://127.0.0.1:{self.port}", "Content-Type": "application/json"}
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.putrequest(method, self.tokens.entrance[:-1] + path, skip_host=True)
            for name, value in headers.items():
                for one in value if isinstance(value, list) else [value] if value is not None else []:
                    connection.putheader(name, one)
            if body is not None:
                connection.putheader("Content-Length", str(len(body.encode())))
            connection.endheaders(body.encode() if body is not None else None)
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read().decode())

    def do(self, method: str, **params: object) -> Reply:
        return self.ask(f"/do/{method}", "POST", json.dumps(params))

    @contextmanager
    def live(self) -> Iterator[Iterator[tuple[str, Any]]]:
        """What a page is told, as it comes."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            path = f"{self.tokens.entrance}live"
            connection.request("GET", path, headers={"Cookie": self.tokens.cookie.partition(";")[0]})
            reply = connection.getresponse()
            assert reply.headers["Content-Type"].startswith("text/event-stream")

            def told() -> Iterator[tuple[str, Any]]:
                name = ""
                while line := reply.readline().decode():
                    key, _, value = line.strip().partition(": ")
                    if key == "event":
                        name = value
                    elif key == "data":
                        yield name, json.loads(value)

            yield told()


@pytest.fixture
def site(environment: dict[str, str]) -> Iterator[Site]:
    """A server whose daemon is at the socket of `environment`, if one is there."""
    page = Page(lambda: Client(environment["TUNFWD_SOCKET"]), lambda: CHECKS, rows)
    with listen(0) as listener:
        tokens = Tokens(listener.getsockname()[1])
        server = Server(page, tokens)
        thread = threading.Thread(target=server.run, args=[[listener]])
        thread.start()
        yield Site(listener.getsockname()[1], tokens)
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def filled(daemon: Daemon) -> Daemon:
    """A daemon that has something to say."""
    daemon.answers |= answers(contact("bob"))
    return daemon


# --- who is let in


def test_the_token_lets_in_and_becomes_a_cookie_that_no_script_and_no_other_site_has(site: Site) -> None:
    reply = site.ask(f"/?token={site.tokens.token}", Cookie=None)
    assert reply.status == 200
    assert "<title>tunfwd</title>" in reply.body
    name, *attributes = reply.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", f"Path={site.tokens.entrance}"} == set(attributes)
    assert site.tokens.token not in name
    again = site.ask("/", Cookie=name)
    assert again.status == 200
    assert again.headers["Set-Cookie"] is None


@pytest.mark.parametrize(
    "path", ["/", "/?token=", "/?token=x", "/live", "/doctor", "/static/main.js", "/nowhere"]
)
def test_nothing_is_answered_without_token_or_cookie(site: Site, path: str) -> None:
    for cookie in (None, "", f"tunfwd-{site.port}=x", "tunfwd-1=x", f"tunfwd-{site.port}=é"):
        reply = site.ask(path, Cookie=cookie)
        assert reply.status == 403
        assert "tunfwd web" in reply.body
        assert reply.headers["Set-Cookie"] is None


def test_a_token_is_taken_at_the_entrance_only(site: Site) -> None:
    assert site.ask(f"/live?token={site.tokens.token}", Cookie=None).status == 403
    assert site.ask(f"/do/ping?token={site.tokens.token}", "POST", "{}", Cookie=None).status == 403


def test_the_place_is_another_one_at_every_start_and_nothing_is_outside_of_it(site: Site) -> None:
    assert len({Tokens(site.port).entrance for _ in range(10)}) == 10
    for path in ("/", "/live", "/static/main.js", "/AAAAAAAAAAAA/", site.tokens.entrance[:-1]):
        with closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=PATIENCE)) as connection:
            connection.request("GET", f"{path}?token={site.tokens.token}")
            assert connection.getresponse().status == 403


def test_the_token_that_a_browsers_command_line_has_is_good_once(site: Site) -> None:
    once = site.tokens.once()
    assert once != site.tokens.token
    assert site.ask(f"/?token={once}", Cookie=None).status == 200
    assert site.ask(f"/?token={once}", Cookie=None).status == 403
    assert site.ask(f"/?token={site.tokens.token}", Cookie=None).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "example.org",
        "127.0.0.1.example.org",
        "localhost.example.org:7373",
        "example.org:127.0.0.1",
        "127.0.0.2",
        "10.0.0.1:7373",
        "[::1]",
        "0.0.0.0",
        "",
        ["127.0.0.1", "127.0.0.1"],
    ],
)
def test_a_name_that_was_made_to_lead_here_is_refused_whatever_it_brings(site: Site, host: Any) -> None:
    reply = site.ask(f"/?token={site.tokens.token}", Host=host)
    assert reply.status in (400, 421)  # h11 refuses two of them by itself
    assert reply.headers["Set-Cookie"] is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:80", "127.0.0.1:65535"])
def test_this_host_is_known_by_its_names_at_any_port_as_ssh_may_forward_one(site: Site, host: str) -> None:
    assert site.ask("/", Host=host).status == 200
    assert site.ask("/qr", "POST", '{"text": "x"}', Host=host, Origin=f"http://{host}").status == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://example.org",
        "null",
        "https://127.0.0.1:{port}",
        "http://127.0.0.1:1",
        "http://127.0.0.1",
        "",
        None,
    ],
)
def test_another_site_changes_nothing_though_the_browser_lends_it_the_cookie(
    site: Site, filled: Daemon, origin: str | None
) -> None:
    said = origin and origin.format(port=site.port)
    assert site.ask("/do/offer.accept", "POST", '{"offer": "web"}', Origin=said).status == 403
    assert not [call for call in filled.calls if call[0] == "offer.accept"]
    if origin:
        assert site.ask("/live", Origin=said).status == 403


@pytest.mark.parametrize("of", ["cross-site", "same-site"])
def test_another_site_may_link_to_the_page_and_have_nothing_else_of_it(site: Site, of: str) -> None:
    assert site.ask("/", Sec_Fetch_Site=of).status == 200
    assert site.ask("/", Sec_Fetch_Site=of, Cookie=None).status == 403
    for path in ("/live", "/doctor", "/static/main.js"):
        assert site.ask(path, Sec_Fetch_Site=of).status == 403
    assert site.ask("/doctor", Sec_Fetch_Site="same-origin").status == 200


@pytest.mark.parametrize(
    ("path", "changes", "expected"),
    [
        ("/", {}, 200),
        ("/", {"Cookie": None}, 403),
        ("/", {"Host": "example.org"}, 421),
        ("/static/style.css", {}, 200),
        ("/static/../access.py", {}, 404),
        ("/static/%2e%2e/access.py", {}, 404),
        ("/nowhere", {}, 404),
        ("/do/ping", {}, 405),
    ],
)
def test_every_answer_keeps_the_browser_careful(
    site: Site, path: str, changes: dict[str, Any], expected: int
) -> None:
    reply = site.ask(path, **changes)
    assert reply.status == expected
    assert {name: reply.headers[name] for name in HEADERS} == HEADERS
    assert "Server" not in reply.headers
    assert "Access-Control-Allow-Origin" not in reply.headers


def test_the_policy_has_nothing_inline_and_nowhere_else() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {value for name, value in policy.items() if name.endswith("-src")} == {"'none'", "'self'"}
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"


@pytest.mark.parametrize("file", sorted(STATIC.iterdir()), ids=lambda file: file.name)
def test_files_of_the_page_name_no_other_place_and_make_no_markup_of_text(file: Path) -> None:
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(https?:)?//[\w.]+\.\w", text)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text
    )
    if file.suffix == ".html":
        assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=|javascript:", text)
    assert len(text.splitlines()) < 400


# --- what is answered


def test_a_method_is_called_and_its_result_returned(site: Site, filled: Daemon) -> None:
    filled.answers["offer.deny"] = {"offers": []}
    reply = site.do("offer.deny", offer="web", contact="bob")
    assert (reply.status, reply.json) == (200, {"offers": []})
    assert ("offer.deny", {"offer": "web", "contact": "bob"}) in filled.calls


def test_who_only_looks_makes_nobody_look_again(
    site: Site, filled: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried = mock.Mock()
    monkeypatch.setattr(Live, "hurry", hurried)
    room = {"name": "lan", "id": KEY, "kind": "group", "state": "online", "public": False, "members": 0}
    answer = {"group": room | {"reason": None, "inviter": None}, "peers": [], "banned": []}
    for method in ("group.peers", "group.banned", "conference.peers"):
        filled.answers[method] = answer
        assert site.do(method, group="lan").status == 200
    assert not hurried.called
    filled.answers["group.kick"] = answer
    assert site.do("group.kick", group="lan", member="bob").status == 200
    assert hurried.called


def test_only_methods_that_the_page_has_use_for_are_called(site: Site, filled: Daemon) -> None:
    assert not {"stop", "id.new_address", "nodes.update", "reload"} & set(ACTIONS)
    for method in ("stop", "id.new_address", "nothing"):
        assert site.do(method).status == 404
    assert not {"stop", "id.new_address", "nothing"} & {name for name, _ in filled.calls}


@pytest.mark.parametrize(
    ("code", "expected"), [("usage", 400), ("not_found", 404), ("failed", 409), ("timeout", 504)]
)
def test_what_the_daemon_refuses_is_told(site: Site, filled: Daemon, code: Any, expected: int) -> None:
    filled.answers["kill"] = UserError(code, "there is no web")
    reply = site.do("kill", id="web")
    assert (reply.status, reply.json) == (expected, {"error": {"code": code, "message": "there is no web"}})


def test_parameters_that_cannot_be_right_do_not_come_to_the_daemon(site: Site, filled: Daemon) -> None:
    reply = site.do("share", ports=["70000/tcp"])
    assert reply.status == 400
    assert "70000" in reply.json["error"]["message"]
    assert site.do("share", colour="red").status == 400
    assert not [call for call in filled.calls if call[0] == "share"]


def test_without_a_daemon_a_call_says_so(site: Site) -> None:
    reply = site.do("ping", name="bob")
    assert reply.status == 503
    assert "no daemon runs" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        ("[]", "application/json", 400),
        ("{", "application/json", 400),
        ("[" * 60_000, "application/json", 400),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), "application/json", 400),
        (json.dumps({"name": "x" * 70_000}), "application/json", 413),
        ("{}", "text/plain", 415),
        ("{}", "application/x-www-form-urlencoded", 415),
        ("{}", None, 415),
    ],
)
def test_a_body_that_is_no_json_object_of_some_size_is_refused(
    site: Site, filled: Daemon, body: str, content_type: str | None, expected: int
) -> None:
    assert site.ask("/do/ping", "POST", body, Content_Type=content_type).status == expected
    assert site.ask("/").status == 200
    assert not [call for call in filled.calls if call[0] == "ping"]


def test_a_ticket_is_drawn_as_a_code(site: Site) -> None:
    drawn = site.ask("/qr", "POST", '{"text": "tunfwd1:abc"}').json["rows"]
    assert drawn == rows("tunfwd1:abc")
    assert {len(row) for row in drawn} == {len(drawn)}
    assert drawn[0].startswith("1111111")  # a finder's edge: no quiet zone, and dark is 1
    for body in ('{"text": ""}', '{"text": 1}', "{}", json.dumps({"text": "x" * 1025})):
        assert site.ask("/qr", "POST", body).status == 400


def test_doctor_says_what_the_command_says(site: Site) -> None:
    assert site.ask("/doctor").json == {"checks": CHECKS}


# --- what a page is told


def until(told: Iterator[tuple[str, Any]], part: str, wanted: Callable[[Any], bool] = lambda _: True) -> Any:
    return next(content for name, content in told if name == part and wanted(content))


def test_a_page_is_told_everything_and_then_what_changes(site: Site, filled: Daemon) -> None:
    with site.live() as told:
        first = until(told, "status")
        assert first["contacts"][0]["name"] == "bob"
        assert until(told, "offers")["offers"][0]["name"] == "web"
        assert until(told, "friends")["friends"][0]["message"] == "it is me"
        filled.answers["status"] = status(contact("bob"), contact("carol", 1))
        assert until(told, "status", lambda content: len(content["contacts"]) == 2)


def test_a_change_by_the_page_is_seen_at_once(site: Site, filled: Daemon) -> None:
    def deny(params: dict[str, object]) -> dict[str, Any]:
        filled.answers["offer.list"] = {"offers": []}
        return {"offers": []}

    filled.answers["offer.deny"] = deny
    with site.live() as told:
        until(told, "offers")
        site.do("offer.deny", offer="web")
        assert until(told, "offers") == {"offers": []}


def test_a_daemon_that_is_gone_is_told_and_one_that_comes_back_is_found(site: Site, filled: Daemon) -> None:
    with site.live() as told:
        until(told, "daemon", lambda content: content["state"] == "running")
        filled.answers["status"] = UserError("failed", "the daemon ends")
        gone = until(told, "daemon", lambda content: content["state"] == "gone")
        assert gone["message"] == "the daemon ends"
        filled.answers["status"] = status(contact("bob"))
        until(told, "daemon", lambda content: content["state"] == "running")


def test_the_page_is_served_before_there_is_a_daemon(site: Site) -> None:
    assert site.ask("/").status == 200
    with site.live() as told:
        gone = until(told, "daemon", lambda content: content["state"] == "gone")
        assert "no daemon runs" in gone["message"]


def test_what_a_contact_is_called_cannot_forge_a_message(site: Site, filled: Daemon) -> None:
    name = "x\n\nevent: daemon\ndata: {}\n\n\u2028</script>"
    filled.answers["status"] = status(contact(name))
    with site.live() as told:
        later = until(told, "status", lambda content: content["contacts"][0]["name"] != "bob")
        assert later["contacts"][0]["name"] == name


def test_a_page_that_is_open_does_not_hold_up_the_end(site: Site, filled: Daemon) -> None:
    with site.live() as told:
        until(told, "status")
        with site.live() as other:
            until(other, "status")
            # The fixture ends the server with streams that nobody has closed.
            site.ask("/")


# --- the model


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def news(model: Model, told: Told) -> dict[str, Any]:
    return {part: json.loads(text) for part, text in model.news(told)}


def test_rates_are_what_went_through_between_two_looks() -> None:
    clock = Clock()
    model, told = Model(clock), Told()
    model.take_in(seen(contact("bob", rx_bytes=5_000, tx_bytes=100)))
    clock.now += 2
    model.take_in(seen(contact("bob", rx_bytes=25_000, tx_bytes=1_100)))
    first, second = (sample["contacts"]["1"] for sample in news(model, told)["samples"])
    assert first == [0, 0, 0.0123]  # what went before the first look is no rate
    assert second == [10_000, 500, 0.0123]
    clock.now += 1
    model.take_in(seen(contact("bob", rx_bytes=0, tx_bytes=0, rtt=None)))  # the daemon was started again
    [third] = news(model, told)["samples"]
    assert third["contacts"] == {"1": [0, 0, None]}


def test_a_look_that_follows_another_at_once_is_no_sample() -> None:
    clock = Clock()
    model, told = Model(clock), Told()
    model.take_in(seen(contact("bob")))
    clock.now += 0.01
    model.take_in(seen(contact("bob", rx_bytes=1000)))
    clock.now += 0.99
    model.take_in(seen(contact("bob", rx_bytes=2000)))
    assert [sample["contacts"]["1"][0] for sample in news(model, told)["samples"]] == [0, 2000]


def test_a_contact_keeps_its_number_and_one_by_another_way_has_another() -> None:
    clock = Clock()
    model = Model(clock)
    model.take_in(seen(contact("bob"), contact("bob", via="group:lan", kind="group")))
    clock.now += 1
    model.take_in(seen(contact("bob", via="group:lan", kind="group", link="offline"), contact("robert")))
    told = news(model, Told())
    assert [one["number"] for one in told["status"]["contacts"]] == [2, 1]
    assert [set(sample["contacts"]) for sample in told["samples"]] == [{"1", "2"}, {"1"}]


def test_only_what_has_changed_is_told_again() -> None:
    clock = Clock()
    model, told = Model(clock), Told()
    model.take_in(seen(contact("bob")))
    assert set(news(model, told)) == {
        *("daemon", "me", "status", "offers", "friends", "ports", "invites", "samples", "events")
    }
    assert not news(model, told)
    clock.now += 1
    model.take_in(seen(contact("bob"), events=happened()))
    assert set(news(model, told)) == {"samples"}
    model.take_in(UserError("no_daemon", "no daemon runs"))
    assert news(model, told) == {"daemon": {"state": "gone", "message": "no daemon runs"}}


def test_what_is_kept_for_pages_is_bounded_and_a_page_that_was_away_gets_what_there_is() -> None:
    clock = Clock()
    model, told = Model(clock), Told()
    for number in range(EVENTS + 5):
        clock.now += 1
        model.take_in(seen(contact("bob"), events=happened(event(number))))
    content = news(model, told)
    assert [one["seq"] for one in content["events"]] == list(range(5, EVENTS + 5))
    assert len(content["samples"]) == SAMPLES
    model.take_in(seen(contact("bob"), events=happened(event(9999))))
    assert [one["seq"] for one in news(model, told)["events"]] == [9999]


def test_events_are_asked_for_from_where_they_were_told(filled: Daemon) -> None:
    asking = Asking(lambda: Client(filled.socket))
    model = Model(Clock())
    filled.answers["events"] = happened(event(1), after="0a0b0c0d.0.1")
    for _ in range(2):
        model.take_in(asking.ask(model.cursor))
    asking.close()
    asked = [params for name, params in filled.calls if name == "events"]
    assert [params.get("after") for params in asked] == [None, "0a0b0c0d.0.1"]


# --- the command


@contextmanager
def command(environment: dict[str, str], *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tunfwd.cli", "web", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)


def fetch(address: str) -> int:
    place, _, path = address.removeprefix("http://").partition("/")
    with closing(http.client.HTTPConnection(place, timeout=PATIENCE)) as connection:
        connection.request("GET", f"/{path}")
        return connection.getresponse().status


def test_the_command_prints_the_address_and_ends_when_it_is_told(environment: dict[str, str]) -> None:
    with command(environment, "--port", "0", "--no-browser") as (process, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{12}/\?token=[\w-]{43}", address)
        assert fetch(address) == 200
        assert fetch(address[:-1]) == 403
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGINT
        assert "Traceback" not in err


def test_a_port_that_is_taken_is_an_error_if_it_was_asked_for(environment: dict[str, str]) -> None:
    with listen(0) as taken:
        port = taken.getsockname()[1]
        with command(environment, "--port", str(port), "--no-browser") as (process, address):
            _, err = process.communicate(timeout=PATIENCE)
            assert (address, process.returncode) == ("", 1)
            assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in err


def test_it_listens_on_loopback_only() -> None:
    with listen(0) as listener:
        assert listener.family is socket.AF_INET
        assert listener.getsockname()[0] == "127.0.0.1"
