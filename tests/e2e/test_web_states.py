"""`tunfwd web` in a real browser, with a daemon of invented state: what two real ones seldom have."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from netns.browser import Browser, page
from netns.node import Node
from netns.topology import Topology
from tunfwd.common.errors import UserError
from tunfwd.control.listener import listening
from tunfwd.control.server import serve

from ..cli.test_watch import contact, offer, pending, status
from ..cli.test_web import answers
from .hosts import folder_of_daemons

pytestmark = [pytest.mark.netns, pytest.mark.timeout(400)]

EMOJI = "🦊" * 128
HEBREW = "שלום עולם"
MANY = 200


class Daemon:
    """A control server in a thread, which answers what `answers` has."""

    def __init__(self, socket: Path) -> None:
        self.answers: dict[str, Mapping[str, Any] | UserError | Callable[[], Mapping[str, Any]]] = {}
        self.heard: list[tuple[str, Mapping[str, object]]] = []
        self._socket = socket
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,))

    async def _answer(self, method: str, params: dict[str, object]) -> Mapping[str, object]:
        self.heard.append((method, params))
        answer = self.answers.get(method, UserError("not_found", f"no {method}"))
        if callable(answer):
            return answer()
        if isinstance(answer, UserError):
            raise answer
        return answer

    async def _run(self) -> None:
        with listening(self._socket, None) as listener:
            async with trio.open_nursery() as nursery:
                await nursery.start(serve, listener, self._answer)
                self._token = trio.lowlevel.current_trio_token()
                self._scope = nursery.cancel_scope
                self._ready.set()

    def __enter__(self) -> Daemon:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(60)


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[Browser, Daemon]]:
    with ExitStack() as stack:
        folder = stack.enter_context(folder_of_daemons())
        net = stack.enter_context(Topology(["ann"]))
        node = Node(net["ann"], folder)
        daemon = stack.enter_context(Daemon(folder / "control.sock"))
        daemon.answers |= answers()
        browser = stack.enter_context(Browser(net["ann"], folder))
        browser.open(stack.enter_context(page(node)))
        yield browser, daemon


@pytest.fixture
def browser(opened: tuple[Browser, Daemon]) -> Iterator[Browser]:
    opened[0].view("contacts")
    yield opened[0]
    assert opened[0].script("return [...violations, ...failures]") == []


@pytest.fixture
def daemon(opened: tuple[Browser, Daemon]) -> Daemon:
    opened[1].answers |= {**answers(), "offer.list": {"offers": []}, "friend.list": {"friends": []}}
    return opened[1]


def shown(browser: Browser) -> int:
    return len(browser.find_all("#contacts-list .row"))


def test_nobody_is_there_yet(browser: Browser, daemon: Daemon) -> None:
    browser.until(lambda: "Nobody here yet" in browser.text("#contacts-empty"), "what there is to do")
    browser.until(lambda: not browser.find("#waiting").is_displayed(), "nothing waits")
    browser.button("Share or join", "#contacts-empty")
    browser.until(lambda: browser.find("[data-view=share]").is_displayed(), "the way to a first contact")


def test_two_hundred_contacts_are_found_by_name_and_stay_where_they_are(
    browser: Browser, daemon: Daemon
) -> None:
    def many(number: int) -> Any:
        return status(*(contact(f"host-{one:03}", one, rx_bytes=number * one) for one in range(MANY)))

    daemon.answers["status"] = many(0)
    browser.until(lambda: shown(browser) == MANY, "all contacts are there")
    browser.script("window.before = document.querySelectorAll('#contacts-list .row')[7]; before.focus()")
    daemon.answers["status"] = lambda: many(int(1000 * time.monotonic()))  # at each look
    browser.until(lambda: "B/s" in browser.text("#contacts-list"), "a rate has moved")
    assert browser.script("return document.activeElement === before && before.isConnected")
    browser.write("#contacts-filter", "HOST-15")
    browser.until(lambda: shown(browser) == 10, "ten of them are found")
    assert "10 found" in browser.text("#contacts-summary")
    spent = [
        browser.script(
            "const before = performance.now();"
            "document.querySelector('#contacts-filter').value = arguments[0];"
            "document.querySelector('#contacts-filter').dispatchEvent(new Event('input'));"
            "return performance.now() - before",
            wanted,
        )
        for wanted in ("", "HOST-15", "", "HOST-15", "")
    ]
    assert min(spent[::2]) < 1000  # ms, of the second that there is until the next look


@pytest.mark.parametrize("width", [360, 1100])
def test_long_and_right_to_left_names_stay_in_their_place(
    browser: Browser, daemon: Daemon, width: int
) -> None:
    browser.look_like(width, 800)
    daemon.answers["status"] = status(contact(EMOJI, 1), contact(HEBREW, 2), contact("W" * 128, 3))
    daemon.answers["offer.list"] = {"offers": [offer(EMOJI, contact=HEBREW)]}
    daemon.answers["friend.list"] = {"friends": [pending(message=EMOJI * 7)]}
    browser.until(lambda: shown(browser) == 3 and HEBREW in browser.text("#decisions"), "they are there")
    assert browser.script("return document.documentElement.scrollWidth") == width
    for name in browser.find_all("#contacts-list .called bdi"):
        row = name.find_element("xpath", "ancestor::button")
        assert name.location["x"] >= row.location["x"]
    isolated = browser.script(
        "return [...document.querySelectorAll('#contacts-list bdi, #decisions bdi')]"
        ".every((one) => getComputedStyle(one).unicodeBidi === 'isolate')"
    )
    assert isolated
    assert browser.text("#decisions .card:last-child .what").startswith(f"{HEBREW} offers 8080/tcp as ")
    browser.look_like()


def test_a_machine_that_is_offline_is_told_why(browser: Browser, daemon: Daemon) -> None:
    why = "for 3 minutes: no node of the network answers"
    daemon.answers["status"] = {
        **status(contact("bob", link="offline")),
        "network": "offline",
        "offline": why,
    }
    browser.until(lambda: why in browser.text("#warnings"), "why")
    assert browser.text("#network-text") == "not connected to the network"


def test_what_the_daemon_refuses_is_said_and_the_page_goes_on(browser: Browser, daemon: Daemon) -> None:
    daemon.answers["offer.list"] = {"offers": [offer()]}
    daemon.answers["offer.accept"] = UserError("failed", "the range of addresses is full")
    browser.until(lambda: "8080/tcp" in browser.text("#decisions"), "the offer is there")
    browser.button("Accept", "#decisions")
    browser.until(lambda: "the range of addresses is full" in browser.text("#toasts"), "the reason")
    assert "8080/tcp" in browser.text("#decisions")


def test_a_daemon_that_answers_nonsense_is_not_taken_for_a_good_one(browser: Browser, daemon: Daemon) -> None:
    daemon.answers["status"] = {"network": "sideways"}
    browser.until(lambda: "makes no sense" in browser.text("#banner"), "what is wrong")
    daemon.answers["status"] = status(contact("bob"))
    browser.until(lambda: not browser.find("#banner").is_displayed(), "it is well again")


def member(name: str, **changes: Any) -> dict[str, Any]:
    plain = {
        "public_key": f"{name:0<64}".encode().hex()[:64].upper(),
        "address": "10.77.5.5",
        "address6": "fd74::5",
    }
    return {"name": name, **plain, "link": "direct", "reachable": True, "advice": None} | changes


def lan_party(kind: str = "group") -> dict[str, Any]:
    plain = {
        "id": "AB" * 32,
        "state": "online",
        "public": False,
        "members": 2,
        "reason": None,
        "inviter": None,
    }
    return {"name": "lan-party", "kind": kind, **plain}


def in_a_group(daemon: Daemon, *members: dict[str, Any], kind: str = "group", role: str = "founder") -> None:
    room = lan_party(kind)
    daemon.answers["status"] = {**status(contact("bob")), "groups": [room]}
    own = {
        "name": "alice",
        "public_key": "CD" * 32,
        "address": "10.77.5.1",
        "address6": "fd74::51",
        "role": role,
    }
    found: dict[str, Any] = {"group": room, "peers": list(members)}
    daemon.answers[f"{kind}.peers"] = found | ({"self": own} if kind == "group" else {})
    daemon.answers["group.banned"] = {"group": room, "banned": []}


def opened_group(browser: Browser) -> str:
    """Open the group; what it shows."""
    browser.until(lambda: "lan-party" in browser.text("#groups-list"), "the group is there")
    if not browser.find_all("#groups-list .details"):
        browser.button("Members", "#groups-list")
    return browser.text("#groups-list .details")


def buttons(browser: Browser) -> list[str]:
    return [one.text for one in browser.find_all("#groups-list .details .list button") if one.is_displayed()]


@pytest.mark.parametrize("width", [360, 1100])
def test_who_is_in_a_group_and_what_they_offer(browser: Browser, daemon: Daemon, width: int) -> None:
    browser.look_like(width, 800)
    in_a_group(daemon, member("ben", link="offline"), member(EMOJI, link="relay"), member("<b>eve</b>"))
    theirs = offer("game", contact="group:lan-party/<b>eve</b>")
    more = offer("", contact="group:lan-party/<b>eve</b>", id="0a0b0c0e", port=22)
    other = offer("other", contact="group:elsewhere/<b>eve</b>", id="0a0b0c0f")
    daemon.answers["offer.list"] = {"offers": [theirs, more, other]}
    opened_group(browser)
    browser.until(lambda: "<b>eve</b>" in browser.text("#groups-list"), "its members are there")
    lines = [one.text for one in browser.find_all("#groups-list .details .words")]
    assert [line.partition("\n")[0] for line in lines] == ["<b>eve</b>", EMOJI, "ben"], "who is away is last"
    assert "direct · 10.77.5.5\nOffers game 8080/tcp, pending; 22/tcp, pending" in lines[0]
    assert "by relay" in lines[1]
    assert "offline" in lines[2]
    assert "You are alice · 10.77.5.1 · founder" in browser.text("#groups-list .details")
    assert browser.script("return document.documentElement.scrollWidth") == width
    assert buttons(browser) == ["Kick", "Ban", "Kick", "Ban", "Ban"]
    said = browser.script(
        "return [...document.querySelectorAll('#groups-list .list button')].map((one) => one.ariaLabel)"
    )
    assert said[:2] == ["Kick <b>eve</b>", "Ban <b>eve</b>"], "which of them, to who only hears it"
    browser.button("Members", "#groups-list")
    browser.until(lambda: not browser.find_all("#groups-list .details"), "it is closed")
    browser.look_like()


def test_members_come_and_go_while_a_group_is_open(browser: Browser, daemon: Daemon) -> None:
    in_a_group(daemon, role="user")
    browser.until(lambda: "Nobody else is here yet." in opened_group(browser), "nobody is there")
    in_a_group(daemon, member("ben"), role="user")
    browser.until(lambda: "ben" in browser.text("#groups-list .details"), "somebody comes")
    assert "Nobody else" not in browser.text("#groups-list .details")
    assert buttons(browser) == ["Ban"], "only founders and moderators kick"
    daemon.answers["group.peers"] = UserError("failed", "it makes no sense")
    browser.until(lambda: "it makes no sense" in browser.text("#groups-list .details"), "why nothing is new")
    browser.button("Members", "#groups-list")


def test_a_member_is_kicked_banned_and_let_in_again(browser: Browser, daemon: Daemon) -> None:
    ben = member("ben")
    asked = daemon.heard = []
    in_a_group(daemon, ben)
    opened_group(browser)
    for answer in ("kick", "ban"):
        daemon.answers[f"group.{answer}"] = {"group": lan_party(), "banned": []}
        browser.button(answer.capitalize(), "#groups-list .details")
        browser.button(answer.capitalize(), "#dialog")
        browser.until(lambda: any(method == f"group.{answer}" for method, _ in asked), "it is done")  # noqa: B023
    entry = {"name": "ben", "public_key": ben["public_key"]}
    in_a_group(daemon)
    daemon.answers["group.banned"] = {"group": lan_party(), "banned": [entry]}
    daemon.answers["group.unban"] = {"group": lan_party(), "banned": [entry]}
    browser.until(lambda: "banned · " in browser.text("#groups-list .details"), "who is kept out is there")
    browser.button("Unban", "#groups-list .details")
    browser.until(lambda: any(method == "group.unban" for method, _ in asked), "it is done")
    room = lan_party()["id"]
    assert [one for one in asked if one[0] in {"group.kick", "group.ban", "group.unban"}] == [
        ("group.kick", {"group": room, "member": "ben"}),
        ("group.ban", {"group": room, "member": "ben"}),
        ("group.unban", {"group": room, "member": ben["public_key"]}),
    ]
    browser.button("Members", "#groups-list")


def test_a_conference_has_members_who_are_no_friends(browser: Browser, daemon: Daemon) -> None:
    advice = "not a friend; ask for their Tox address"
    stranger = member("cat", reachable=False, address=None, address6=None, link="offline", advice=advice)
    in_a_group(daemon, stranger, kind="conference")
    opened_group(browser)
    browser.until(lambda: f"not reachable · {advice}" in browser.text("#groups-list"), "what can be done")
    assert buttons(browser) == []
    daemon.answers["conference.invite"] = {"group": lan_party("conference")}
    daemon.heard = []
    browser.button("Invite", "#groups-list .details")
    browser.until(lambda: "Invited." in browser.text("#toasts"), "a friend is invited")
    invited = ("conference.invite", {"group": lan_party()["id"], "friend": f"{0:064X}"})
    assert invited in daemon.heard
