"""A machine set up from one file: [[friend]], [[group]], [[offer]], at start and when it is read again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tunfwd.common.errors import ConfigurationError
from tunfwd.config.document import load, parse
from tunfwd.daemon.commands.reload import Reloading

from ..tox.simulated_toxcore import Network, installed
from .living import Living, until

KEY = "0123456789ABCDEF" * 4


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return installed(monkeypatch)


class Machine:
    """A daemon with a configuration."""

    def __init__(self, path: Path, daemon: Living) -> None:
        self.path = path
        self.daemon = daemon
        self.call = daemon.call
        self.refusal = daemon.refusal

    async def reload(self, text: str) -> Any:
        self.path.write_text(text)
        return await self.call("reload")

    async def friends(self) -> dict[str, str]:
        return {one["name"]: one["state"] for one in (await self.call("friend.list"))["friends"]}

    async def groups(self) -> dict[str, str]:
        return {one["name"]: one["state"] for one in (await self.call("group.list"))["groups"]}

    async def offers(self) -> set[tuple[str, int, str]]:
        offers = (await self.call("offer.list"))["offers"]
        return {(one["contact"], one["port"], one["name"]) for one in offers if one["origin"] == "local"}

    @property
    def saved(self) -> Any:
        return json.loads(self.daemon.state.path.read_text())


@asynccontextmanager
async def machine(directory: Path, name: str, text: str = "") -> AsyncIterator[Machine]:
    path = directory / f"{name}.toml"
    path.write_text(text)
    read = partial(load, path, environ={}, euid=0)
    async with Living.running(directory, name) as daemon:
        reloading = Reloading(
            read(), read, daemon, daemon.state, daemon.nodes, daemon.name, daemon.saver.save
        )
        reloading.register(daemon.commands)
        reloading.begin()
        yield Machine(path, daemon)


def friend(name: str, key: str) -> str:
    return f'[[friend]]\nname = "{name}"\nkey = "{key}"\n'


def key_of(one: Machine) -> str:
    return one.daemon.client.public_key.hex()


async def test_two_machines_that_name_each_other_are_friends(tmp_path: Path) -> None:
    """One file for both: its own entry is no trouble to either."""
    async with machine(tmp_path, "alice") as alice, machine(tmp_path, "bob") as bob:
        text = friend("alice", key_of(alice)) + friend("bob", key_of(bob))
        for one in (alice, bob):
            assert (await one.reload(text))["problems"] == []
        await alice.daemon.knows("bob")
        await bob.daemon.knows("alice")
        assert (await alice.friends(), await bob.friends()) == ({"bob": "online"}, {"alice": "online"})

        # no command undoes it
        told = f"bob is a [[friend]] of {alice.path}: change it there, then `tunfwd reload`"
        assert await alice.refusal("friend.remove", name="bob") == ("denied", told)
        assert await alice.refusal("friend.rename", name="bob", to="rob") == ("denied", told)
        assert await alice.refusal("friend.block", who="bob") == ("denied", told)

        # another name in the file is another name; without an entry it is no friend
        await alice.reload(friend("robert", key_of(bob)))
        assert await alice.friends() == {"robert": "online"}
        assert (await alice.reload(""))["changed"] == ["[[friend]]"]
        assert await alice.friends() == {}


async def test_who_was_a_friend_before_stays_one_after(tmp_path: Path) -> None:
    async with machine(tmp_path, "alice") as alice, machine(tmp_path, "bob") as bob:
        await alice.call("friend.add", address=bob.daemon.address, name="old")
        await alice.reload(friend("bob", key_of(bob)))
        assert await alice.friends() == {"bob": "offline"}
        await alice.reload("")
        assert await alice.friends() == {"bob": "offline"}
        await alice.call("friend.remove", name="bob")


async def test_an_address_is_asked(tmp_path: Path) -> None:
    async with machine(tmp_path, "bob") as bob:
        text = f'[[friend]]\nname = "bob"\naddress = "{bob.daemon.address}"\nmessage = "it is me"\n'
        async with machine(tmp_path, "alice", text):
            await until(lambda: bob.daemon.client.friends.requests)
            assert bob.daemon.client.friends.requests[0].message == "it is me"


async def test_what_it_had_while_it_was_down_is_gone(tmp_path: Path) -> None:
    async with machine(tmp_path, "alice", friend("bob", KEY)) as alice:
        assert await alice.friends() == {"bob": "offline"}
    async with machine(tmp_path, "alice", friend("carol", KEY[::-1])) as alice:
        assert await alice.friends() == {"carol": "offline"}
    async with machine(tmp_path, "alice") as alice:
        assert await alice.friends() == {}
        await until(lambda: alice.saved["declared"] == [])


async def test_offers_to_some_and_to_all(tmp_path: Path) -> None:
    two = friend("bob", KEY) + friend("carol", KEY[::-1])
    to_bob = '[[offer]]\nports = ["80/tcp", "5000-5001/udp"]\nto = "bob"\nname = "web"\n'
    to_all = '[[offer]]\nports = "22/tcp"\nto = ["all"]\ntarget = "127.0.0.1:2222"\nsource = "host"\n'
    async with machine(tmp_path, "alice", two + to_bob + to_all) as alice:
        web = {("bob", 80, "web"), ("bob", 5000, "web"), ("bob", 5001, "web")}
        assert await alice.offers() == web | {("bob", 22, ""), ("carol", 22, "")}
        assert alice.daemon.content.offers == []  # it stands in the file, and nowhere else
        targets = {o["target"] for o in (await alice.call("offer.list"))["offers"] if o["port"] == 22}
        assert targets == {"127.0.0.1:2222"}
        told = f"80/tcp is an [[offer]] of {alice.path}: change it there, then `tunfwd reload`"
        assert await alice.refusal("kill", id="80", contact="bob") == ("denied", told)

        bob_before = next(p for p in alice.daemon.datapath.peers if p.name == "bob").session.mappings
        kept = {id(mapping) for mapping in bob_before}
        await alice.reload(two.replace('"carol"', '"dave"') + to_bob + to_all)
        bob_after = next(p for p in alice.daemon.datapath.peers if p.name == "bob").session.mappings
        assert {id(mapping) for mapping in bob_after} == kept  # what has not changed goes on
        assert ("dave", 22, "") in await alice.offers()

        await alice.reload(two + to_all)
        assert await alice.offers() == {("bob", 22, ""), ("carol", 22, "")}
        await alice.reload(two)
        assert await alice.offers() == set()


async def test_who_comes_later_is_offered_it_too(tmp_path: Path) -> None:
    text = '[[offer]]\nports = "80/tcp"\nto = ["all", "bob"]\n[[offer]]\nports = "81/tcp"\nto = "bob"\n'
    async with machine(tmp_path, "alice", text) as alice, machine(tmp_path, "bob") as bob:
        await alice.call("friend.add", address=bob.daemon.address)
        name = next(iter(await alice.friends()))
        assert await alice.offers() == {(name, 80, "")}
        await alice.call("friend.rename", name=name, to="robert")
        assert await alice.offers() == {("robert", 80, "")}
        await alice.call("friend.rename", name="robert", to="bob")
        assert await alice.offers() == {("bob", 80, ""), ("bob", 81, "")}
        await alice.call("friend.rename", name="bob", to="robert")
        assert await alice.offers() == {("robert", 80, "")}


async def test_groups_are_created_once_and_joined(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("sesame\n")
    created = f'[[group]]\nname = "lan"\ncreate = "public"\npassword_file = "{password}"\n'
    offer = '[[offer]]\nports = "8303/udp"\nto = "group:lan"\nname = "game"\n'
    async with machine(tmp_path, "host", created + offer) as host:
        assert await host.groups() == {"lan": "online"}
        assert await host.offers() == {("group:lan", 8303, "game")}
        assert host.daemon.content.offers == []
        told = f"lan is a [[group]] of {host.path}: change it there, then `tunfwd reload`"
        assert await host.refusal("group.leave", group="lan") == ("denied", told)
        assert await host.refusal("group.rename", group="lan", to="x") == ("denied", told)
        assert (await host.refusal("kill", id="game"))[0] == "denied"
        chat_id = next(iter(host.daemon.client.groups)).id.hex()
        joined = f'[[group]]\nname = "party"\nchat_id = "{chat_id}"\npassword_file = "{password}"\n'
        async with machine(tmp_path, "guest", joined) as guest:
            assert set(await guest.groups()) == {"party"}
            await until(lambda: len(list(host.daemon.datapath.peers)) == 1)
            assert (await guest.reload(""))["problems"] == []
            assert await guest.groups() == {}
        # what we founded nobody could found again: it stays, and is the person's from then on
        await host.reload("")
        assert await host.groups() == {"lan": "online"}
        assert await host.offers() == set()
        await host.call("group.leave", group="lan")
    async with machine(tmp_path, "host", created) as host:
        assert len(list(host.daemon.client.groups)) == 1
        first = next(iter(host.daemon.client.groups)).id
    async with machine(tmp_path, "host", created) as host:
        assert [one.id for one in host.daemon.client.groups] == [first]


async def test_what_contradicts_the_state_is_said_and_left(tmp_path: Path) -> None:
    async with machine(tmp_path, "alice") as alice, machine(tmp_path, "bob") as bob:
        await alice.call("friend.add", address=bob.daemon.address, name="bob")
        await alice.call("offer.add", to=["bob"], ports=["80/tcp"], name="web")
        await alice.call("group.create", name="lan", public=True)
        text = (
            friend("bob", KEY)
            + '[[offer]]\nports = "80/tcp"\nto = "bob"\nname = "other"\n'
            + f'[[group]]\nname = "lan"\nchat_id = "{KEY}"\n'
            + '[[offer]]\nports = "81/tcp"\nto = "nobody-here"\n'
        )
        result = await alice.reload(text)
        assert result["problems"] == [
            f"{alice.path}, [[friend]] bob: there is a contact named 'bob' already; choose another name",
            f"{alice.path}, [[group]] lan: group:lan exists already; choose another name",
            f"{alice.path}, [[offer]] 80/tcp: 80 is offered to bob otherwise already as web; kill that first",
            f"{alice.path}, [[offer]] 81/tcp: nobody here is called 'nobody-here' so far",
        ]
        assert await alice.offers() == {("bob", 80, "web")}

        # the same offer as by a command becomes the file's, without a moment's interruption
        mapping = next(iter(alice.daemon.datapath.peers)).session.mappings[0]
        result = await alice.reload('[[offer]]\nports = "80/tcp"\nto = "bob"\nname = "web"\n')
        assert result["problems"] == []
        assert next(iter(alice.daemon.datapath.peers)).session.mappings == [mapping]
        assert alice.daemon.content.offers == []
        await alice.call("friend.block", who=KEY)
        assert (await alice.reload(friend("eve", KEY)))["problems"] == [
            f"{alice.path}, [[friend]] eve: is blocked; `tunfwd friend unblock eve` ends that"
        ]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('[[friend]]\nname = "bob"\n', 1, "[[friend]] has an address, who is then asked, or the key"),
        ('[[friend]]\nname = "all"\nkey = "' + KEY + '"\n', 2, "[[friend]] name 'all' means something else"),
        (friend("a", KEY) + friend("b", KEY), 6, "[[friend]] key the same key stands in another [[friend]]"),
        (friend("a", KEY) + friend("a", KEY[::-1]), 5, "[[friend]] name a stands in another [[friend]]"),
        ('[[friend]]\nname = "a"\naddress = "00"\n', 3, "[[friend]] address '00' is not a Tox address"),
        ('[[group]]\nname = "a"\n', 1, "[[group]] has a chat_id, to be joined, or create"),
        ('[[group]]\nname = "a"\nchat_id = "12"\n', 3, "[[group]] chat_id '12' is not a chat id"),
        (
            '[[offer]]\nports = "80/sctp"\nto = "a"\n',
            2,
            "[[offer]] ports '80/sctp': the protocol is tcp or udp",
        ),
        ('[[offer]]\nports = []\nto = "a"\n', 2, "[[offer]] ports must be ports such as"),
        ('[[offer]]\nports = "80"\nto = 3\n', 3, "[[offer]] to must be a contact"),
        ('[[offer]]\nports = "80-81"\nto = "a"\ntarget = "x:1"\n', 4, "[[offer]] target is for one port"),
        (
            '[[offer]]\nports = "80"\nto = "a"\n' * 2,
            5,
            "[[offer]] ports 80/tcp to a stands in another [[offer]]",
        ),
    ],
)
def test_entries_that_cannot_be_are_said_by_their_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigurationError) as wrong:
        parse(text, "t.toml")
    assert wrong.value.message.startswith(f"t.toml, line {line}: {reason}")


def test_a_password_that_cannot_be_read_is_said_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    for content, reason in (
        (None, "cannot be read: No such file"),
        ("", "has 1 to 32"),
        ("x" * 33, "has 1 to 32"),
    ):
        if content is not None:
            (tmp_path / "secret").write_text(content)
        file.write_text(f'[[group]]\nname = "a"\ncreate = "public"\npassword_file = "{tmp_path}/secret"\n')
        with pytest.raises(ConfigurationError) as wrong:
            load(file, environ={}, euid=0)
        assert wrong.value.message.startswith(f"{file}, line 4: [[group]] password_file: {tmp_path}/secret: ")
        assert reason in wrong.value.message
