"""Several ports as one thing: offered, asked for, accepted and ended as a whole, or not at all."""

from typing import Any

import pytest
import trio

from tunfwd.common.errors import UserError
from tunfwd.forwarding.mapping_table import MAX_MAPPINGS
from tunfwd.forwarding.states import MappingState
from tunfwd.wire.carriers import GROUP
from tunfwd.wire.packets import Direction, Kill, Offer, decode

from .joined import Joined
from .simulated import Daemon, SimulatedGroup, key_of
from .test_naming import commands_of

GAME = ["27015/tcp", "27015-27030/udp"]


class Command:
    """The commands of a daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._dispatcher = commands_of(daemon)

    async def __call__(self, method: str, **params: object) -> Any:
        return await self._dispatcher(method, params)


def standing(daemon: Daemon) -> int:
    content = daemon.content
    return len(content.offers) + len(content.requests) + len(content.mappings)


async def test_a_game_is_offered_accepted_and_ended_by_its_name(autojump_clock: object) -> None:
    async with Joined.running() as joined:
        serving, using = joined.serving.daemon, joined.using.daemon
        using.offers.policy = type(using.offers.policy)((), ())
        ours, theirs = Command(serving), Command(using)
        offered = await ours("offer.add", to=["user"], ports=GAME, name="game")
        assert [(o["port"], o["protocol"]) for o in offered["offers"]][:2] == [(27015, "tcp"), (27015, "udp")]
        await trio.sleep(1)
        pending = (await theirs("offer.list"))["offers"]
        assert {offer["state"] for offer in pending} == {"pending"}
        with pytest.raises(UserError, match="17 ports; give the id of one"):
            await theirs("offer.accept", offer="game", port=9)
        accepted = await theirs("offer.accept", offer="game")
        assert accepted["mapping"] == accepted["mappings"][0]
        await trio.sleep(1)
        ports = (await theirs("ports"))["ports"]
        assert len(ports) == len(accepted["mappings"]) == 17
        assert {port["state"] for port in ports} == {"running"}
        assert {port["port"] for port in ports} == set(range(27015, 27031))
        killed = await ours("kill", id="game")
        assert len(killed["killed"]) == 17
        await trio.sleep(1)
        assert (await theirs("ports"))["ports"] == []
        assert standing(serving) == standing(using) == 0


async def test_a_name_with_many_ports_is_one_thing_to_decide_on(autojump_clock: object) -> None:
    """More ports than there may be undecided offers, and all are accepted with one command."""
    async with Joined.running() as joined:
        using = joined.using.daemon
        using.offers.policy = type(using.offers.policy)((), ())
        ours, theirs = Command(joined.serving.daemon), Command(using)
        await ours("offer.add", to=["user"], ports=["1000-1255/udp"], name="game")
        await trio.sleep(1)
        assert len((await theirs("offer.accept", offer="game"))["mappings"]) == 256
        await trio.sleep(1)
        assert {m.state for m in joined.server.session.mappings} == {MappingState.RUNNING}


async def test_what_cannot_be_offered_whole_is_not_offered_at_all(autojump_clock: object) -> None:
    daemon = Daemon()
    daemon.befriend("alice")
    bob = daemon.befriend("bob")
    command = Command(daemon)
    await command("offer.add", to=["bob"], ports=["27020/udp"], name="one")
    daemon.forget_traffic()
    before, saved = standing(daemon), list(daemon.content.offers)
    for verb, params in (
        ("offer.add", {"to": ["alice", "bob"], "ports": GAME}),
        ("offer.add", {"to": ["alice", "nobody"], "ports": GAME}),
        ("offer.add", {"to": ["alice"], "ports": ["5-4/tcp"]}),
        ("offer.add", {"to": ["alice"], "ports": ["1-65535/tcp"]}),
        ("offer.add", {"to": ["alice"], "ports": ["1-9/tcp", "4/tcp"]}),
        ("offer.add", {"to": ["alice"], "ports": []}),
        ("offer.add", {"to": ["alice"], "ports": ["1/tcp"], "port": 5, "protocol": "tcp"}),
        ("offer.add", {"to": ["alice"], "port": 5}),
        ("offer.add", {"to": ["alice"], "ports": ["1-2/tcp"], "target": "nas:1"}),
        ("request", {"contact": "alice", "ports": ["1-2/tcp"], "local_port": 7}),
    ):
        with pytest.raises(UserError):
            await command(verb, **params)
    assert standing(daemon) == before
    assert daemon.content.offers == saved
    assert not daemon.tox.to_friends
    assert len(bob.session.mappings) == 1
    await command("offer.add", to=["alice", "alice"], ports=GAME, name="game")  # once is enough
    assert standing(daemon) == before + 17


async def test_requests_are_all_or_none(autojump_clock: object) -> None:
    daemon = Daemon()
    alice = daemon.befriend("alice")
    command = Command(daemon)
    asked = await command("request", contact="alice", ports=["22/tcp", "5000-5003/udp"], name="tools")
    assert len(asked["offers"]) == 5
    with pytest.raises(UserError, match="5002/udp is already asked for"):
        await command("request", contact="alice", ports=["6000/tcp", "5002/udp"])
    assert len(alice.session.mappings) == len(daemon.content.requests) == 5
    assert len((await command("kill", id="tools"))["killed"]) == 5
    for first in range(1, MAX_MAPPINGS, 256):
        await command("request", contact="alice", ports=[f"{first}-{first + 255}/tcp"])
    with pytest.raises(UserError, match="1024 offers and requests at most"):
        await command("request", contact="alice", ports=["1-2/udp"])
    assert len(alice.session.mappings) == MAX_MAPPINGS
    assert {mapping.direction for mapping in alice.session.mappings} == {Direction.CONNECTION}


async def test_who_means_one_of_several_things_is_asked_which(autojump_clock: object) -> None:
    daemon = Daemon()
    for name in ("alice", "bob"):
        daemon.befriend(name)
    command = Command(daemon)
    await command("offer.add", to=["alice", "bob"], ports=GAME, name="game")
    await command("offer.add", to=["alice"], ports=["80/tcp"], name="web")
    await command("offer.add", to=["bob"], ports=["443/tcp"], name="web")
    with pytest.raises(UserError, match="may be any of"):
        await command("kill", id="web")
    with pytest.raises(UserError, match="may be any of"):
        await command("kill", id="27015", contact="alice")  # TCP and UDP
    assert [k["contact"] for k in (await command("kill", id="web", contact="bob"))["killed"]] == ["bob"]
    assert len((await command("kill", id="game"))["killed"]) == 34  # the same to both
    assert [offer.name for offer in daemon.content.offers] == ["web"]


async def test_a_group_is_offered_a_game_as_one(autojump_clock: object) -> None:
    daemon = Daemon(known=[SimulatedGroup(key_of("lan"), "lan")])
    [group] = daemon.groups
    daemon.join(group, 1, "ann")
    daemon.befriend("bob")
    command = Command(daemon)
    await command("offer.add", to=["group:lan"], ports=["27020/udp"], name="other")
    daemon.forget_traffic()
    with pytest.raises(UserError, match="27020/udp is already offered"):
        await command("offer.add", to=["bob", "group:lan"], ports=GAME, name="game")
    assert not daemon.tox.public
    assert len(daemon.content.offers) == 1
    await command("offer.add", to=["group:lan"], ports=["27015-27018/udp"], name="game")
    sent = [decode(GROUP, packet) for packet in daemon.tox.public]
    assert [packet.port for packet in sent if isinstance(packet, Offer)] == [27015, 27016, 27017, 27018]
    daemon.forget_traffic()
    assert len((await command("kill", id="game"))["killed"]) == 4
    assert sum(isinstance(decode(GROUP, packet), Kill) for packet in daemon.tox.public) == 4
    assert [offer.name for offer in daemon.content.offers] == ["other"]
