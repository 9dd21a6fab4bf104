"""Types what README and the pages show, as it stands, on hosts where it is to work.

Each page is read from its top to its end by people on hosts of their own, who do what it says. What they
cannot know in advance (keys, tickets, addresses) is put in for what the page has in its place. What is not
typed here stands in LEFT_OUT with the reason.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from netns.node import Node, befriend
from netns.topology import PROJECT, Topology

from .hosts import folder_of_daemons
from .typed import PAGES, Block, Typed, blocks, commands

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet, pytest.mark.timeout(600)]

PATIENCE = 90.0  # s for what takes two daemons, such as an offer that is on its way
ENDLESS = 3.0  # s that a command runs which only its user ends
AGAIN = 0.5  # s

SSH = "takes an account to log in to: test_programs.py and test_rootless.py use ssh"
RESOLVER = "takes a resolver of the whole machine that asks the daemon: test_names.py has one"
LEFT_OUT = {  # whole lines, as patterns, and why they are not typed here
    r"(\w+=\S+ )*(apt|pipx|systemctl|useradd|usermod|uv) .*": "changes the machine: packages, users",
    r"tunfwd service (install|remove)": "changes the machine; tests/cli/test_service.py",
    r"(\./)?scripts/(build-deb|demo|screenshots|setup|test|try-deb)\b.*": "sets up, or makes files anew",
    r"(\./)?scripts/(fresh-machine|networks|restarts)\b.*": "takes many minutes, and measures",
    r"python -m scripts\.\w+": "writes a page or a picture anew: test_docs.py compares the page",
    r"\./netns/game-night": "takes a game server: tests/netns_tools run it",
    r"ssh .*": SSH,
    r"tunfwd run -- .*": "takes a /dev/net/tun that anybody may open: test_rootless.py",
    r"(curl http://|ping )\S+\.tunfwd\.internal\S*": RESOLVER,
    r"tunfwd dns (install|remove)": RESOLVER,
    r"tunfwd nodes update( https:\S+)?": "takes the Internet",
    r"tunfwd daemon( --rootless)?": "is what the hosts here run",
    r"tunfwd (backup|restore) .*|tunfwd notify": "takes a passphrase, an ended daemon, a desktop",
}
WITHOUT_END = ("tunfwd events --follow", "tunfwd web", "netns/lab run alice ping 192.168.77.2")
INTERRUPTED = 130
MAY_FAIL = {  # exit codes, by what is typed
    "tunfwd doctor --json": {0, 1},  # of machines that lack something, as these may
    "tunfwd service status": {0, 1},  # there is none
}
UNFINISHED = "…"  # in a file of configuration: it is shortened


@dataclass(frozen=True)
class Scene:
    """Where a page begins."""

    hosts: tuple[str, ...] = ("alice",)
    friends: tuple[str, str] | None = None
    before: tuple[tuple[str, str], ...] = ()
    """Commands that others have typed before, by host."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Hosts of the page, and who is that here."""
    rootless: bool = False


FOUNDED = ("host", "tunfwd group create lan-party --public")
JOINED = ("player1", "tunfwd group join CHAT_ID --name lan-party")
OFFERED = ("bob", "tunfwd offer 8080/tcp --to alice --name web")
SCENES = {  # of pages that begin otherwise than `scene_of` has it
    "README.md": Scene(("alice", "bob", "host", "player1")),
    "docs/games.md": Scene(("host", "player1"), before=(FOUNDED, JOINED)),
    "docs/groups.md": Scene(("host", "player1"), aliases=(("player3", "player1"),)),
    "docs/names.md": Scene(
        ("alice", "bob"),
        ("alice", "bob"),
        (("bob", "tunfwd offer 22/tcp --to alice --name ssh"), ("alice", "tunfwd accept ssh")),
    ),
    "docs/offers.md": Scene(
        ("alice", "bob"), ("alice", "bob"), (("alice", "tunfwd request 22/tcp --from bob"),)
    ),
    "docs/rootless.md": Scene(("alice", "bob"), ("alice", "bob"), (OFFERED,), rootless=True),
    "docs/services.md": Scene(("alice", "bob")),
    "docs/sharing.md": Scene(
        ("alice", "bob", "host", "player1"), before=(("host", "tunfwd group create lan-party"),)
    ),
    "netns/README.md": Scene(),
}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def is_left_out(typed: Typed) -> bool:
    return any(re.fullmatch(pattern, typed.line) for pattern in LEFT_OUT)


SHOWN = [one for page in PAGES for block in blocks(page) for one in commands(block)]
TYPED = list(dict.fromkeys(one.page for one in SHOWN if not is_left_out(one)))
"""Pages that show something to type."""


def scene_of(page: str) -> Scene:
    """Return where a page begins: with alice alone, or a friend of bob's where he is named."""
    named = any(re.search(r"\bbob\b", one.line) for one in SHOWN if one.page == page and not is_left_out(one))
    return SCENES.get(page) or (Scene(("alice", "bob"), ("alice", "bob")) if named else Scene())


class World:
    """The hosts of a scene, and what has been said on them that others need to know."""

    def __init__(self, net: Topology, folder: Path, scene: Scene) -> None:
        self.scene = scene
        self.desk = folder / "desk"  # where everybody types
        self.ticket = self.chat_id = ""
        self.nodes: dict[str, Node] = {}
        self._net = net
        self._folder = folder
        self._tidy()

    def _tidy(self) -> None:
        self.desk.mkdir()
        for part in ("netns", "scripts", "tunfwd", ".venv"):
            (self.desk / part).symlink_to(PROJECT / part)
        program = self.desk / "my-program"
        program.write_text("#!/bin/sh\necho $LAB_HOST\n")
        program.chmod(0o755)
        nodes = {"nodes": [{"public_key": "AB" * 32, "ipv4": "192.0.2.1", "port": 33445, "tcp_ports": [443]}]}
        (self.desk / "our-nodes.json").write_text(json.dumps(nodes))

    def start(self, stack: ExitStack) -> None:
        first: Node | None = None
        for number, name in enumerate(self.scene.hosts):
            place = self._folder / name
            place.mkdir()
            tox: dict[str, Any] = {"nickname": name}
            config: dict[str, Any] = {"tox": tox}
            if first is not None:
                tox["bootstrap"] = [first.bootstrap()]
            if self.scene.rootless:
                config["socks"] = {"listen": "127.0.0.1:1080"}
            user = 47001 if self.scene.rootless and number == 0 else None
            node = stack.enter_context(Node(self._net[name], place, config, user=user))
            first = first or node
            self.nodes[name] = node
            stack.callback(_end, self._serve(name))
        if self.scene.friends is not None:
            befriend(*(self.nodes[name] for name in self.scene.friends))
        for host, line in self.scene.before:
            self.type(host, line)

    def _serve(self, name: str) -> subprocess.Popen[bytes]:
        """Have a web server at each host, which says whose it is."""
        page = self._folder / name / "web"
        page.mkdir()
        (page / "index.html").write_text(f"Hello from {name}'s own web server.\n")
        server = [sys.executable, "-m", "http.server", "8080", "--directory", str(page)]
        return self._net[name].start(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def host(self, name: str | None) -> Node:
        """Return the host that a page means; it need not say where there is one alone, or alice's."""
        name = name or self.scene.hosts[0]
        return self.nodes[dict(self.scene.aliases).get(name, name)]

    def type(self, name: str | None, line: str, *, allowed: Collection[int] = (0,), ends: bool = True) -> str:
        """Type a command until it goes, as people do who wait for the other end; return what it says."""
        node = self.host(name)
        deadline = time.monotonic() + PATIENCE
        while True:
            done = self._run(node, self._filled(line), ends)
            if done.returncode in allowed or time.monotonic() > deadline:
                break
            assert done.returncode not in (2, 126, 127), (
                f"{line}: {done.stderr}"
            )  # no such option, or command
            time.sleep(AGAIN)
        assert done.returncode in allowed, f"{node.name}: {line}: {done.stdout}{done.stderr}"
        self._listen(done.stdout)
        return done.stdout

    def _run(self, node: Node, line: str, ends: bool) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
        words = shlex.split(line)
        if not ends:
            words = ["timeout", "--preserve-status", "--signal=INT", str(ENDLESS), *words]
        program = (
            shutil.which(str(self.desk / words[0])) if "/" in words[0] else shutil.which(words[0], path=path)
        )
        assert program is not None, f"there is no {words[0]}"
        options: dict[str, Any] = {
            "env": os.environ | node.environment | {"PATH": path},
            "cwd": self.desk,
            "timeout": 2 * PATIENCE,
        }
        if line.startswith("netns/"):  # for hosts of its own
            streams: dict[str, Any] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
            return subprocess.run([program, *words[1:]], check=False, **options, **streams)
        # as this user, in no shell: the interpreter may lie below a folder that only root may look into
        return node.host.run(node.as_user(program, *words[1:]), check=False, **options)

    def _listen(self, said: str) -> None:
        if found := re.search(r"tunfwd:[\w-]+", said):
            self.ticket = found[0]
        if found := re.search(r"chat id ([0-9A-F]{64})", said):
            self.chat_id = found[1]

    def _filled(self, line: str) -> str:
        """Put in what the page's writer could not know."""
        line = re.sub(r"tunfwd:[\w-]*(?:…|\.\.\.)", self.ticket, line)
        line = re.sub(r"F77F[0-9A-F]{60}|CHAT_ID", self.chat_id, line)
        if "1B67BDAE" in line:
            line = re.sub(r"1B67BDAE\S*", self.host("alice").identity()["address"], line)
        if "4F5B632C" in line:
            line = line.replace("4F5B632C", self.host("bob").identity()["public_key"][:8])
        if "77.222.240" in line:
            address = self.host("alice").contact("bob")["address"]
            line = re.sub(r"1(?:0|27)\.77\.222\.240", address, line)
        return line


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Pages that begin alike share one."""
    scene = request.param
    with folder_of_daemons() as folder, Topology(scene.hosts) as net, ExitStack() as stack:
        world = World(net, folder, scene)
        world.start(stack)
        yield world


@pytest.mark.parametrize(
    ("world", "page"), [(scene_of(page), page) for page in TYPED], indirect=["world"], ids=TYPED
)
def test_what_a_page_shows_to_type_works(world: World, page: str) -> None:
    typed = 0
    for block in blocks(PROJECT / page):
        for one in commands(block):
            if not is_left_out(one):
                ends = one.line not in WITHOUT_END
                allowed = MAY_FAIL.get(one.line, {0} if ends else {0, INTERRUPTED})
                world.type(one.host, one.line, allowed=allowed, ends=ends)
                typed += 1
    assert typed


def test_what_is_left_out_is_shown() -> None:
    lines = {one.line for one in SHOWN}
    assert not [pattern for pattern in LEFT_OUT if not any(re.fullmatch(pattern, line) for line in lines)]
    assert not {*WITHOUT_END} - lines
    assert not SCENES.keys() - set(TYPED)


FILES = [block for page in PAGES for block in blocks(page) if block.kind == "toml"]


@pytest.mark.parametrize("block", [one for one in FILES if UNFINISHED not in one.text], ids=str)
def test_a_daemon_starts_with_the_configuration_that_a_page_shows(block: Block) -> None:
    with folder_of_daemons() as folder, Topology(["alice"]) as net:
        node = Node(net["alice"], folder)
        node.config_file.write_text(block.text)
        with node:
            node.cli("status")
            assert node.cli("reload", check=False).returncode in (0, 1)  # 1: an entry contradicts the state


@pytest.mark.parametrize(
    "block", [b for p in PAGES for b in blocks(p) if b.text.startswith("from ")], ids=str
)
def test_python_that_a_page_shows_imports_what_is_there(block: Block) -> None:
    for statement in ast.parse(block.text).body:
        if isinstance(statement, ast.ImportFrom):
            module = importlib.import_module(statement.module or "")
            assert all(hasattr(module, name.name) for name in statement.names)


def test_a_command_that_does_not_exist_is_found() -> None:
    """What is wrong in a page fails, and is not tried for long."""
    with folder_of_daemons() as folder, Topology(["alice"]) as net, ExitStack() as stack:
        world = World(net, folder, Scene())
        world.start(stack)
        started = time.monotonic()
        for line in ("tunfwd frobnicate", "tunfwd status --no-such-option", "no-such-program"):
            with pytest.raises(AssertionError, match=line.split()[-1]):
                world.type(None, line)
        assert time.monotonic() - started < PATIENCE
