"""The list of added nodes on disk, its commands, and what doctor makes of what nodes answer."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tests.tox.test_nodes import document, entry
from tunfwd.common.errors import ConfigurationError, UserError
from tunfwd.control import api
from tunfwd.daemon.commands.nodes import NodeCommands
from tunfwd.daemon.storage.nodes import FILE, NodeList
from tunfwd.tox.contacts import NONE, TCP, UDP
from tunfwd.tox.joining import Joining
from tunfwd.tox.nodes import bundled, read_list
from tunfwd.tox.probing import Answer, Outcome
from tunfwd.tox.settings import NetworkNode, Node, Origin, Proxy, Settings


def nodes_of(*numbers: int) -> list[Any]:
    return list(read_list(document(*(entry(number) for number in numbers))))


# --- the list -----------------------------------------------------------------------------------------------


def test_added_nodes_stand_beside_the_bundled(tmp_path: Path) -> None:
    first = NodeList(tmp_path, own=True)
    assert len(first.public) == len(bundled())
    assert len(first.add(nodes_of(1, 2))) == 2
    assert len(first.add(nodes_of(2, 3))) == 1
    again = NodeList(tmp_path, own=True)
    assert [node.public_key[-1] for node in again.added] == [2, 3, 1]
    assert len(again.public) == len(bundled()) + 3
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert NodeList(tmp_path, own=False).public == ()


@pytest.mark.parametrize("content", ["", "[]", '{"nodes": [{}]}', "\0" * 100])
def test_a_damaged_file_keeps_nothing_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (tmp_path / FILE).write_text(content)
    with caplog.at_level(logging.WARNING):
        nodes = NodeList(tmp_path, own=True)
    assert "the nodes added before are not used" in caplog.text
    assert len(nodes.public) == len(bundled())
    nodes.add(nodes_of(1))
    assert len(NodeList(tmp_path, own=True).added) == 1


def test_a_list_of_ones_own_that_is_of_no_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\[tox\] public_nodes: .*No such file"):
        NodeList(tmp_path, own=tmp_path / "none.json")


def test_a_list_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    nodes = NodeList(tmp_path / "gone", own=True)
    with pytest.raises(UserError, match="cannot be written"):
        nodes.add(nodes_of(1))
    assert nodes.added == ()


# --- the commands -------------------------------------------------------------------------------------------


class World:
    """A client in the middle of nodes that answer as they are told to."""

    def __init__(
        self,
        folder: Path,
        nodes: Mapping[NetworkNode, tuple[Answer | None, Answer | None]],
        *,
        connection: Any = NONE,
        seconds: float = 30.0,
        public: Path | bool = True,
        **settings: Any,
    ) -> None:
        self.answers = nodes
        proxied = settings.get("proxy") is not None
        joining = Joining(
            SimpleNamespace(),
            nodes,
            resolve=None,
            is_routable=lambda address: not address.startswith("198.51.100."),
            connected_relays=lambda: frozenset({bytes([9]) * 32}),
            ask=None if proxied else self._ask,
            random=Random(1),
        )
        joining.online = connection is not NONE
        joining.offline_since = None if joining.online else trio.current_time() - seconds
        client: Any = SimpleNamespace(
            joining=joining, connection=connection, settings=Settings(folder / "tox", **settings)
        )
        self.joining = joining
        self.list = NodeList(folder, own=public)
        self.commands = NodeCommands(client, self.list)

    async def _ask(self, nodes: Mapping[NetworkNode, Sequence[str]], **_: bool) -> list[Outcome]:
        outcomes = []
        for node in nodes:
            udp, relay = self.answers[node]
            outcomes.append(Outcome(node, udp, {} if relay is None else {443: relay}))
        return outcomes

    async def told(self) -> dict[str, api.Check]:
        """Doctor's checks, by name; the last of each."""
        return {check["name"]: check for check in await self.commands.checks()}


def node(number: int, origin: Origin = "bundled", network: str = "192.0.2") -> NetworkNode:
    return NetworkNode(bytes([number]) * 32, (f"{network}.{number}",), 33445, (443,), origin)


def nodes(count: int, udp: Answer | None, relay: Answer | None) -> dict[NetworkNode, Any]:
    return {node(number): (udp, relay) for number in range(1, count + 1)}


async def test_doctor_counts_who_answers(tmp_path: Path) -> None:
    some = nodes(5, "answers", "answers") | {
        node(6): ("no answer", "refused"),
        node(7): ("no answer", "answers"),
    }
    checks = await World(tmp_path, some, connection=UDP).told()
    assert checks["tox network"]["level"] == "ok"
    assert checks["nodes"]["detail"] == "UDP: 5 of 7 nodes answer, TCP: 6 of 7"
    assert checks["nodes"]["level"] == "ok"


async def test_doctor_asks_eight_and_what_is_configured(tmp_path: Path) -> None:
    own = node(99, "bootstrap")
    checks = await World(
        tmp_path, {**nodes(28, "answers", None), own: ("answers", None)}, connection=UDP
    ).told()
    assert "UDP: 9 of 9 nodes answer" in checks["nodes"]["detail"]


async def test_doctor_where_udp_is_blocked(tmp_path: Path) -> None:
    checks = await World(tmp_path, nodes(8, "refused", "answers"), connection=TCP).told()
    assert checks["nodes"]["detail"] == (
        "UDP: 0 of 8 nodes answer, TCP: 8 of 8: UDP is blocked here: relays are used"
    )
    assert checks["nodes"]["level"] == "warning"


async def test_doctor_where_nothing_answers(tmp_path: Path) -> None:
    checks = await World(tmp_path, nodes(8, "no answer", "no answer")).told()
    assert checks["tox network"]["level"] == checks["nodes"]["level"] == "error"
    assert not checks["tox network"]["ok"]
    assert "not connected for 30 s: " in checks["tox network"]["detail"]
    assert "firewall" in checks["nodes"]["detail"]
    assert "tunfwd nodes update" in checks["nodes"]["detail"]


async def test_a_start_is_no_error_yet(tmp_path: Path) -> None:
    checks = await World(tmp_path, nodes(8, "answers", "answers"), seconds=3).told()
    assert checks["tox network"]["level"] == "warning"
    assert checks["nodes"]["level"] == "ok"


async def test_doctor_where_there_is_no_route(tmp_path: Path) -> None:
    away = {node(number, network="198.51.100"): ("answers", "answers") for number in (1, 2)}
    checks = await World(tmp_path, away).told()  # type: ignore[arg-type]
    assert "there is no route to any of 2 nodes" in checks["nodes"]["detail"]


async def test_doctor_without_a_node(tmp_path: Path) -> None:
    checks = await World(tmp_path, {}, public=False).told()
    assert "no node to join at is known" in checks["nodes"]["detail"]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (("wrong key", None), "something answers there, but has another key"),
        (("no answer", "no answer"), "no answer over UDP, no answer over TCP (443)"),
    ],
)
async def test_doctor_says_which_configured_node_is_not_there(
    tmp_path: Path, answers: tuple[Answer, Answer], said: str
) -> None:
    own = NetworkNode.of(Node("192.0.2.77", 33445, bytes(32)), "bootstrap")
    world = World(tmp_path, {own: answers, **nodes(3, "answers", "answers")}, connection=UDP)
    checks = await world.commands.checks()
    assert [check["detail"] for check in checks if check["level"] == "warning"] == [
        f"[tox] bootstrap 192.0.2.77:33445: {said}"
    ]


async def test_doctor_asks_nobody_past_a_proxy(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        nodes(3, "answers", None),
        connection=TCP,
        udp=False,
        proxy=Proxy("socks5", "127.0.0.1", 9050),
    )
    with socket.socket() as taken:  # nobody listens there
        taken.bind(("127.0.0.1", 0))
        proxy = Proxy("socks5", "127.0.0.1", taken.getsockname()[1])
        world.commands._client.settings = Settings(tmp_path / "tox", udp=False, proxy=proxy)
        checks = await world.told()
        assert checks["proxy"]["level"] == "error"
        assert "in use" not in checks["proxy"]["detail"]
        taken.listen()
        assert (await world.told())["proxy"]["level"] == "ok"
    assert checks["nodes"]["detail"].startswith("1 relays are connected through the proxy")
    assert all(record.outcome is None for record in world.joining.records)


async def test_doctor_without_udp(tmp_path: Path) -> None:
    checks = await World(tmp_path, nodes(3, None, "answers"), connection=TCP, udp=False).told()
    assert checks["nodes"] | {"detail": ""} == {"name": "nodes", "ok": True, "level": "ok", "detail": ""}
    assert checks["nodes"]["detail"] == "TCP: 3 of 3"


async def test_how_they_did(tmp_path: Path) -> None:
    world = World(tmp_path, {node(9): ("answers", "no answer")}, connection=UDP)
    [plain] = (await world.commands._nodes(api.Nodes()))["nodes"]
    assert (plain["relay"], plain["udp"], plain["tcp"]) == (True, None, {})
    [tested] = (await world.commands._nodes(api.Nodes(test=True)))["nodes"]
    assert (tested["udp"], tested["tcp"]) == ("answers", {"443": "no answer"})
    json.dumps(tested)


async def test_added_nodes_are_joined_at(tmp_path: Path) -> None:
    world = World(tmp_path, nodes(1, "answers", "answers"))
    result = await world.commands._update(api.NodesUpdate(nodes_of(7)))
    assert (result["added"], result["total"], result["public_nodes"]) == ([f"{7:064X}"], 1, True)
    assert [record.node.origin for record in world.joining.records] == ["added", "bundled"]
    await world.commands._update(api.NodesUpdate(nodes_of(7)))
    assert len(world.joining.records) == 2


async def test_added_nodes_wait_where_none_are_wanted(tmp_path: Path) -> None:
    world = World(tmp_path, {}, public=False)
    result = await world.commands._update(api.NodesUpdate(nodes_of(7)))
    assert (result["total"], result["public_nodes"]) == (1, False)
    assert not world.joining.records


async def test_offline_in_one_line(tmp_path: Path) -> None:
    world = World(tmp_path, nodes(3, "no answer", "no answer"), seconds=12)
    assert (world.commands.offline() or "").startswith(
        "not connected to the Tox network for 12 s: 0 nodes asked"
    )
    assert World(tmp_path, {}, connection=UDP).commands.offline() is None
