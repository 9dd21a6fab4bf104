"""Makes docs/pictures: each view of `tunfwd web`, light, dark, and on a phone. By `scripts/screenshots`.

Nothing is invented: alice's daemon has met bob's and carol's over Tox, in network namespaces, and programs
move data meanwhile.
"""

import base64
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from netns.browser import Browser, BrowserError, page
from netns.demo import DemoError, service
from netns.node import FRIEND_TIME, Node, befriend
from netns.topology import Topology

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
VIEWS = ("contacts", "services", "share", "activity", "doctor")
LOOKS = {"": (1000, False), "-dark": (1000, True), "-phone": (390, False)}
TALLEST = {"": 1000, "-dark": 1000, "-phone": 844}
LEAST = {"": 560, "-dark": 560, "-phone": 844}
TRAFFIC_TIME = 100.0  # s that the charts show
QUALITY = 70  # of WebP
PROGRAM = """
import math, socket, sys, threading, time
address, rate = sys.argv[1], int(sys.argv[2])
if address:
    connection = socket.create_connection((address, 8080))
else:
    connection = socket.create_server(("", 8080)).accept()[0]
def read():
    while connection.recv(1 << 16):
        pass
threading.Thread(target=read, daemon=True).start()
while True:
    part = 1 + 0.6 * math.sin(time.time() / 9 + rate) + 0.15 * math.sin(time.time() * 1.3)
    connection.sendall(bytes(round(rate * part / 20)))
    time.sleep(0.05)
"""


@contextmanager
def traffic(alice: Node, address: str) -> Iterator[None]:
    """Have a program of alice's exchange data with bob's, now more, now less."""
    process = alice.host.start([sys.executable, "-c", PROGRAM, address, "120000"])
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def prepare(alice: Node, bob: Node, carol: Node, dave: Node) -> str:
    """Have something in each view; returns where bob is reached."""
    for friend in (bob, carol):
        befriend(friend, alice)
    service(bob, "python3", "-c", PROGRAM, "", "400000", folder=bob.folder, listening="-t sport = :8080")
    bob.cli("offer", "8080/tcp", "--to", "alice", "--name", "photos")
    alice.wait_for(lambda: alice.offer("photos"), FRIEND_TIME, "alice is offered it")
    alice.cli("accept", "photos")
    alice.wait_for(
        lambda: (alice.port("photos") or {}).get("state") == "running", FRIEND_TIME, "photos can be reached"
    )
    alice.cli("offer", "5432/tcp", "--to", "bob", "--name", "database")
    alice.cli("offer", "27015/tcp", "27015-27030/udp", "--to", "carol", "--name", "game")
    alice.cli("share", "3000/tcp", "--name", "notes", "--uses", "3", "--no-wait")
    alice.cli("group", "create", "lan-party")
    for guest in (bob, carol):
        invite = alice.json("group", "share", "lan-party", "--no-wait")["invite"]
        guest.cli("join", invite["ticket"], "--timeout", str(int(FRIEND_TIME)), timeout=FRIEND_TIME + 20)
    bob.cli("offer", "2456/udp", "--to", "group:lan-party", "--name", "valheim")
    alice.wait_for(lambda: alice.offer("valheim"), FRIEND_TIME, "alice is offered the game")
    alice.cli("accept", "valheim")
    carol.cli("offer", "631/tcp", "--to", "alice", "--name", "printer")
    alice.wait_for(lambda: alice.offer("printer"), FRIEND_TIME, "alice is offered the printer")
    dave.cli("friend", "add", alice.identity()["address"], "--message", "Hi, it is Dave from the office")
    key = dave.identity()["public_key"]
    alice.wait_for(lambda: alice.friend(key), FRIEND_TIME, "dave's request is there")
    return str(bob_at(alice))


def bob_at(alice: Node) -> str:
    """Return bob's virtual address."""
    return str(alice.contact("bob")["address"])


def take(browser: Browser, name: str, look: str) -> None:
    """Write one picture of the page as it is, as tall as it is, within bounds."""
    width, dark = LOOKS[look]
    browser.look_like(width, LEAST[look], dark=dark, scale=2 if look == "-phone" else 1.5)
    browser.script("scrollTo(0, 0)")
    height = browser.script("return document.documentElement.scrollHeight")
    height = min(max(height, LEAST[look]), TALLEST[look])
    browser.look_like(width, height, dark=dark, scale=2 if look == "-phone" else 1.5)
    time.sleep(1.5)  # the charts are drawn anew
    shot = browser.protocol("Page.captureScreenshot", format="webp", quality=QUALITY)
    (PICTURES / f"{name}{look}.webp").write_bytes(base64.b64decode(shot["data"]))


def pictures(browser: Browser) -> None:
    """Take each view in each look."""
    browser.look_like(1000, 900)
    browser.click("#contacts-list .row")
    time.sleep(TRAFFIC_TIME)
    browser.click("#contacts-list .row")
    browser.button("Members", "#groups-list")
    browser.until(lambda: "Offers" in browser.text("#groups-list"), "the group's members are there")
    for look in ("", "-dark"):  # on a phone it is below what the picture shows
        take(browser, "group", look)
    browser.button("Members", "#groups-list")
    browser.click("#contacts-list .row")
    for view in VIEWS:
        browser.look_like(1000, 900)
        browser.view(view)
        if view == "share":
            browser.write("#share-form [name=ports]", "8080/tcp")
            browser.write("#share-form [name=name]", "web")
            browser.button("Make a ticket", "#share-form")
            browser.until(lambda: browser.text("#ticket code"), "the ticket is there")
            browser.script("document.activeElement.blur()")
        if view == "doctor":
            browser.until(lambda: browser.find_all("#checks li"), "what the doctor finds is there", 60)
        if view == "services":
            browser.button("Deny", "#decisions")  # dave's and carol's wait in the first picture only
            browser.button("Reject", "#decisions")
        browser.until(lambda: not browser.find_all(".toast"), "no notice is over the page")
        for look in LOOKS:
            take(browser, view, look)


def main() -> int:
    """Make the pictures; the exit code."""
    PICTURES.mkdir(exist_ok=True)
    try:
        with Topology(["alice", "bob", "carol", "dave"]) as net, ExitStack() as stack:
            nodes: list[Node] = []
            for host in net:
                folder = net.folder / host.name
                folder.mkdir()
                tox: dict[str, object] = {"nickname": host.name}
                if nodes:
                    tox["bootstrap"] = [nodes[0].bootstrap()]
                nodes.append(stack.enter_context(Node(host, folder, {"tox": tox})))
            alice, *_ = nodes
            address = prepare(*nodes)
            browser = stack.enter_context(Browser(alice.host, net.folder))
            browser.open(stack.enter_context(page(alice)))
            with traffic(alice, address):
                pictures(browser)
    except (BrowserError, DemoError, OSError, RuntimeError) as failure:
        print(f"screenshots: {failure}", file=sys.stderr)
        return 1
    for picture in sorted(PICTURES.glob("*.webp")):
        print(f"{picture.relative_to(PICTURES.parent.parent)}: {picture.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
