"""`tunfwd web` in a real browser, over real Tox: what two people do on the page, and what becomes of it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from netns.browser import Browser, page
from netns.node import FRIEND_TIME, Node

from .hosts import TcpService, connect, echo, read_exactly
from .people import daemons
from .plain_peer import ToxNode

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet, pytest.mark.timeout(400)]

VIEWS = ("contacts", "services", "share", "activity", "doctor")
CHUNK = bytes(64_000)


@dataclass(frozen=True)
class People:
    """Hosts on one wire, each with a daemon; ann has the page open."""

    ann: Node
    ben: Node
    cat: Node
    browser: Browser
    address: str


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    def tox(name: str, node: ToxNode) -> dict[str, Any]:
        return {"nickname": name, "bootstrap": [node.bootstrap]}

    with daemons(tox) as (nodes, net, folder):
        ann, ben, cat = nodes
        with Browser(net["ann"], folder) as browser, page(ann) as address:
            browser.open(address)
            yield People(ann, ben, cat, browser, address)
        assert "Traceback" not in (ann.folder / "web.log").read_text()


@pytest.fixture
def browser(people: People) -> Iterator[Browser]:
    """As people have it; afterwards nothing was loaded from elsewhere, forbidden, or wrong in a script."""
    people.browser.look_like()
    people.browser.view("contacts")
    yield people.browser
    assert people.browser.script("return [...violations, ...failures]") == []
    loaded = people.browser.script("return performance.getEntriesByType('resource').map((one) => one.name)")
    origin = people.browser.script("return location.origin")
    assert loaded
    assert [one for one in loaded if not one.startswith(f"{origin}/")] == []


@pytest.fixture(scope="module")
def friends(people: People) -> People:
    """ben asks, and ann accepts on the page."""
    ann, ben, browser = people.ann, people.ben, people.browser
    ben.cli("friend", "add", ann.identity()["address"], "--name", "ann", "--message", "It is <b>ben</b>")
    browser.until(
        lambda: "It is <b>ben</b>" in browser.text("#decisions"), "the request is on the page", FRIEND_TIME
    )
    assert "asks to be your friend" in browser.script("return document.getElementById('news').textContent")
    assert browser.script("return document.title") == "(1) tunfwd"
    browser.button("Accept", "#decisions")
    browser.write("#dialog input", "ben")
    browser.button("Accept", "#dialog")
    browser.until(lambda: "direct" in row(browser, "ben"), "ben is online on the page", FRIEND_TIME)
    return people


def row(browser: Browser, name: str) -> str:
    """What the contact's row says."""
    return next((one.text for one in browser.find_all("#contacts-list .row") if name in one.text), "")


def offered(people: People, name: str, port: int) -> None:
    """Have ben offer a port, and see it on ann's page."""
    people.ben.cli("offer", f"{port}/tcp", "--to", "ann", "--name", name)
    people.browser.until(lambda: name in people.browser.text("#decisions"), f"{name} waits on the page", 60)


def test_friends_are_made_on_the_page(friends: People) -> None:
    assert friends.ann.contact("ben")["link"] != "offline"
    assert friends.browser.find("#waiting").is_displayed() is False


def test_an_offer_is_accepted_traffic_flows_and_the_rate_moves(friends: People, browser: Browser) -> None:
    with TcpService(friends.ben.host, 8080, echo):
        offered(friends, "web", 8080)
        browser.button("Accept", "#decisions")
        browser.view("services")
        browser.until(lambda: "running" in browser.text("#reached"), "it runs on the page", 60)
        mapping = friends.ann.port("web")
        assert mapping is not None
        assert f"{mapping['dns'] or mapping['address']}:8080" in browser.text("#reached")
        browser.view("contacts")
        browser.click("#contacts-list .row")
        with closing(connect(friends.ann.host, mapping["address"], 8080)) as connection:

            def moved() -> bool:
                exchange(connection)
                return "B/s" in row(browser, "ben")

            browser.until(moved, "the rate is on the page", 60)
            values = browser.text(".details .legend.in .value")
            assert values.endswith("B/s")
            assert values != "0 B/s"
            for chart in browser.find_all(".details .chart svg"):
                assert len(chart.find_element("css selector", "path.line").get_attribute("d") or "") > 10
                assert "over five minutes" in (chart.get_attribute("aria-label") or "")
        browser.click("#contacts-list .row")


def exchange(connection: socket.socket) -> None:
    connection.sendall(CHUNK)
    assert read_exactly(connection, len(CHUNK)) == CHUNK


def test_an_offer_is_made_and_withdrawn_on_the_page(friends: People, browser: Browser) -> None:
    browser.view("services")
    browser.write("#offer-form [name=ports]", "7001 7002/udp")
    browser.write("#offer-form [name=name]", "two")
    browser.button("Offer", "#offer-form")
    friends.ben.wait_for(lambda: friends.ben.offer("two"), 60, "ben is offered it")
    browser.until(lambda: "7001/tcp 7002/udp" in browser.text("#offered"), "both ports are on the page")
    browser.button("Withdraw", "#offered")
    browser.button("Withdraw", "#dialog")
    friends.ben.wait_for(lambda: friends.ben.offer("two") is None, 60, "ben hears that it is withdrawn")
    browser.until(lambda: "two" not in browser.text("#offered"), "it is gone from the page")


def test_a_port_is_shared_and_who_joins_appears(friends: People, browser: Browser) -> None:
    browser.view("share")
    browser.write("#share-form [name=ports]", "9000")
    browser.write("#share-form [name=name]", "notes")
    browser.button("Make a ticket", "#share-form")
    browser.until(lambda: "tunfwd join" in browser.text("#ticket code"), "the ticket is there")
    assert browser.find("#ticket .qr path").get_attribute("d")
    ticket = browser.text("#ticket code").removeprefix("tunfwd join ")
    answer = friends.cat.cli("join", ticket, "--timeout", "100", "--json", timeout=120)
    assert json.loads(answer.stdout)["stage"] == "reachable"
    browser.until(lambda: "joined: " in browser.text("#invites-list"), "the page says who has joined")
    browser.view("contacts")
    browser.until(lambda: len(browser.find_all("#contacts-list .row")) == 2, "cat is a contact")


def test_a_ticket_is_taken_on_the_page(friends: People, browser: Browser) -> None:
    invite = friends.ben.json("share", "9100/tcp", "--name", "taken")["invite"]
    browser.view("share")
    browser.write("#join-form [name=ticket]", f"tunfwd join {invite['ticket']}")
    browser.button("Join", "#join-form")
    browser.until(lambda: "taken is at" in browser.text("#join-note"), "it is reachable", 100)
    assert browser.find("#join-stages [aria-current=step]").text == "Reachable"


def test_a_group_is_made_shared_looked_at_moderated_and_left_on_the_page(
    friends: People, browser: Browser
) -> None:
    browser.write("#group-form [name=name]", "lan-party")
    browser.button("Make", "#group-form")
    browser.until(lambda: "lan-party" in browser.text("#groups-list"), "the group is there")
    browser.button("Ticket", "#groups-list")
    browser.until(lambda: "the group lan-party" in browser.text("#ticket-title"), "its ticket is there")
    ticket = browser.text("#ticket code").removeprefix("tunfwd join ")
    friends.ben.cli("join", ticket, "--timeout", "100", timeout=120)
    browser.view("contacts")
    browser.button("Members", "#groups-list")
    inside = "#groups-list .details"
    browser.until(lambda: "ben" in browser.text(f"{inside} .list"), "ben is a member", FRIEND_TIME)
    assert "founder" in browser.text(inside)
    friends.ben.cli("offer", "7100/udp", "--to", "group:lan-party", "--name", "game")
    browser.until(lambda: "Offers game 7100/udp, pending" in browser.text(inside), "what ben offers", 60)
    browser.button("Accept", "#decisions")
    browser.until(lambda: "Offers game 7100/udp, running" in browser.text(inside), "it runs", 60)
    browser.button("Ban", inside)
    browser.button("Ban", "#dialog")
    browser.until(lambda: "banned · " in browser.text(inside), "ben is kept out")
    assert friends.ann.json("group", "peers", "lan-party")["peers"] == []
    browser.button("Unban", inside)
    browser.until(lambda: "banned" not in browser.text(inside), "ben may come again")
    friends.ben.cli("kill", "game", check=False)
    browser.button("Leave", "#groups-list")
    browser.button("Leave", "#dialog")
    browser.until(lambda: "lan-party" not in browser.text("#groups-list"), "it is left")


def test_what_a_person_mistypes_is_said(friends: People, browser: Browser) -> None:
    browser.view("share")
    browser.write("#join-form [name=ticket]", "nonsense")
    browser.button("Join", "#join-form")
    browser.until(lambda: "ticket" in browser.text("#toasts"), "the daemon's refusal is shown")
    browser.write("#join-form [name=ticket]", "")


def test_names_of_contacts_are_text(friends: People, browser: Browser) -> None:
    name = "<img src=x onerror=alert(1)>"
    images = len(browser.find_all("img"))
    offered(friends, name, 8081)
    assert browser.find("#decisions bdi:last-of-type").text == name
    browser.button("Deny", "#decisions")
    browser.until(lambda: not browser.find("#waiting").is_displayed(), "it is denied")
    assert len(browser.find_all("img")) == images
    friends.ben.cli("kill", name)


def test_all_is_done_by_keyboard(friends: People, browser: Browser) -> None:
    offered(friends, "keys", 8082)
    browser.script("document.activeElement.blur(); scrollTo(0, 0)")

    def focused() -> str:
        return str(browser.script("const it = document.activeElement; return it.ariaLabel ?? it.textContent"))

    def tab_to(wanted: str) -> None:
        for _ in range(40):
            browser.press(Keys.TAB)
            if focused().startswith(wanted):
                return
        raise AssertionError(f"{wanted!r} is not reached; the focus is on {focused()!r}")

    tab_to("Skip to content")
    tab_to("Accept: ben offers 8082/tcp")
    ring = browser.script("return getComputedStyle(document.activeElement).outlineStyle")
    assert ring != "none"
    browser.press(Keys.TAB)
    assert focused().startswith("Deny")
    browser.press(Keys.SPACE)
    browser.until(lambda: not browser.find("#waiting").is_displayed(), "it is denied")
    assert browser.script("return document.activeElement !== document.body"), "the focus is lost"
    browser.script("document.querySelector('nav a').focus()")
    tab_to("Services")
    browser.press(Keys.ENTER)
    browser.until(lambda: browser.find("[data-view=services]").is_displayed(), "the view is shown")
    tab_to("Leave")
    browser.script("document.querySelector('#offered button.danger')?.focus()")
    if browser.find_all("#offered button.danger"):
        browser.press(Keys.ENTER)
        browser.until(lambda: browser.find("#dialog").is_displayed(), "it is asked")
        assert focused() == "Cancel"
        browser.press(Keys.ESCAPE)
        browser.until(lambda: not browser.find("#dialog").is_displayed(), "the question is gone")
        assert focused() == "Withdraw"
    friends.ben.cli("kill", "keys")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(friends: People, browser: Browser, dark: bool) -> None:
    browser.look_like(360, 740, dark=dark)
    offered(friends, f"phone-{dark}", 8084)
    for view in VIEWS:
        browser.view(view)
        assert browser.script("return document.documentElement.scrollWidth") == 360
        small = browser.script(
            "return [...document.querySelectorAll('button, nav a')].filter((one) => one.checkVisibility())"
            ".filter((one) => one.offsetHeight < 24 || one.offsetHeight > 80).map((one) => one.textContent)"
        )
        assert small == []  # WCAG 2.2, 2.5.8; and no button has its word from top to bottom
    ground = browser.script("return getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 3 * 60) is dark
    friends.ben.cli("kill", f"phone-{dark}")
    browser.until(lambda: not browser.find("#waiting").is_displayed(), "it is withdrawn")


def test_the_daemon_starts_again_and_the_page_goes_on(friends: People, browser: Browser) -> None:
    friends.ann.stop()
    browser.until(lambda: "no daemon runs" in browser.text("#banner"), "the page says that it is gone")
    assert row(browser, "ben"), "what was known is still shown"
    assert browser.text("#network-text") == "daemon gone"
    friends.ann.start()
    browser.until(lambda: not browser.find("#banner").is_displayed(), "the page goes on by itself")
    browser.until(lambda: "direct" in row(browser, "ben"), "ben is online again", FRIEND_TIME)
    offered(friends, "afterwards", 8083)
    browser.button("Deny", "#decisions")
    friends.ben.cli("kill", "afterwards")


def test_doctor_and_log_say_what_the_commands_say(friends: People, browser: Browser) -> None:
    browser.view("doctor")
    checks = friends.ann.json("doctor")["checks"]
    browser.until(lambda: len(browser.find_all("#checks li")) == len(checks), "all checks are there", 60)
    assert [one.text for one in browser.find_all("#checks strong")] == [check["name"] for check in checks]
    browser.view("activity")
    browser.until(lambda: "ben is online" in browser.text("#log"), "the log has what happened")


def test_the_token_is_taken_out_of_the_address_and_is_needed_again_elsewhere(
    friends: People, browser: Browser
) -> None:
    assert "token" not in browser.script("return location.href")
    assert browser.script("return document.cookie") == ""  # HttpOnly
    assert "token" not in browser.script("return performance.getEntriesByType('resource').join()")
    browser.driver.refresh()
    browser.until(lambda: row(browser, "ben"), "the cookie is good after a reload")
    port = friends.address.split(":")[2].partition("/")[0]
    answer = friends.ann.host.run(["curl", "-si", f"http://127.0.0.1:{port}/"]).stdout
    assert answer.startswith("HTTP/1.1 403")
    outside = friends.ann.host.run(["curl", "-s", f"http://{friends.ann.host.address}:{port}/"], check=False)
    assert outside.returncode == 7  # nothing listens there


def test_a_server_of_somebody_else_at_another_port_gets_no_cookie(friends: People, browser: Browser) -> None:
    heard: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        heard.append(connection.recv(10_000))
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<p>hello</p>")

    here = browser.script("return location.href")
    with TcpService(friends.ann.host, 8900, answer, "127.0.0.1"):
        browser.driver.get("http://127.0.0.1:8900/")
        browser.until(lambda: browser.text("p") == "hello", "it has answered")
    assert heard
    assert not [request for request in heard if b"cookie" in request.lower()]
    browser.open(here)  # where it is known still
