"""Records docs/demo.svg: what two people type, and what comes back. As root: `python -m scripts.record_demo`.

Each command is run for real, on two hosts in network namespaces, by daemons that meet over Tox.
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from netns.demo import PAGE, DemoError, service
from netns.node import Node
from netns.topology import Topology

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "demo.svg"
WIDTH = 112
STYLES = {"bob": "bold green", "alice": "bold cyan"}


class Recording:
    """The terminal, as it fills."""

    def __init__(self) -> None:
        self._console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)

    def typed(self, name: str, command: str) -> None:
        prompt = Text(f"{name}$ ", STYLES[name])
        self._console.print(prompt + Text(command, "bold white"))

    def printed(self, text: str) -> None:
        for line in text.rstrip().splitlines():
            self._console.print(Text(line), overflow="ellipsis", no_wrap=True)

    def blank(self) -> None:
        self._console.print()

    def save(self, path: Path) -> None:
        picture = self._console.export_svg(title="tunfwd", unique_id="demo")
        path.write_text(
            re.sub(r"@font-face \{.*?\}", "", picture, flags=re.S)
        )  # nothing is fetched to see it


def run(recording: Recording, node: Node, *arguments: str, shown: str = "") -> str:
    """Type a tunfwd command, and return what it prints."""
    result = node.cli(*arguments, timeout=130)
    recording.typed(node.name, f"tunfwd {shown or ' '.join(arguments)}")
    return result.stdout + result.stderr


def record(alice: Node, bob: Node) -> Recording:
    recording = Recording()
    site = bob.folder / "site"
    site.mkdir()
    (site / "index.html").write_text(PAGE)
    service(bob, "python3", "-m", "http.server", "8080", folder=site, listening="-t sport = :8080")
    said = run(recording, bob, "share", "8080/tcp", "--name", "web")
    ticket = said.split("tunfwd join ")[1].split()[0]
    short = f"{ticket[:30]}…"
    recording.printed(said.replace(ticket, short))
    recording.blank()
    recording.printed(run(recording, alice, "join", ticket, shown=f"join {short}"))
    address = alice.contact("bob")["address"]
    page = f"http://{address}:8080/"
    recording.typed("alice", f"curl {page}")
    answer = alice.host.run(["curl", "--silent", "--max-time", "10", page], check=False, timeout=20).stdout
    if answer != PAGE:
        raise DemoError(f"curl got {answer!r}")
    recording.printed(answer)
    recording.printed(run(recording, alice, "ports"))
    return recording


def main() -> int:
    with Topology(["alice", "bob"]) as net:
        for host in net:
            (net.folder / host.name).mkdir()
        alice, bob = (Node(host, net.folder / host.name) for host in net)
        try:
            alice.configure({"tox": {"nickname": "alice"}})
            alice.start()
            bob.configure({"tox": {"nickname": "bob", "bootstrap": [alice.bootstrap()]}})
            bob.start()
            bob.wait_for(lambda: bob.json("status")["network"] == "online", 60, "bob is in the network")
            record(alice, bob).save(PICTURE)
        finally:
            for node in (alice, bob):
                node.stop()
    print(f"written: {PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
