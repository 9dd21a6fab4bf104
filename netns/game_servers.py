"""Servers and clients of games: how each is started, what its LAN search asks, and what is answered.

For game_trials.py, which runs them. What a question and an answer look like is of the games' sources.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from netns import lan_search

EVERYBODY: Final = "255.255.255.255"
QUAKE: Final = b"\xff\xff\xff\xff"
STK_QUESTION: Final = b"stk-server"


@dataclass(frozen=True)
class Trial:
    """How a game's server is started, asked, and played on."""

    package: str
    server: str  # {folder}: where it and the client may write
    question: bytes
    port: int
    answer: Callable[[bytes], str | None]
    """What came back, in words; None: something else than an answer."""
    to: str | None = EVERYBODY  # None: the host alone, as players do who type the address
    hear: int | None = None  # where answers go to everybody
    protocol: str = "udp"
    files: Mapping[str, str] = field(default_factory=dict)
    client: str = ""  # {address}: where the server is
    client_packages: tuple[str, ...] = ()  # besides the server's
    played: str = "joined"  # what it then has done, in a word
    seen: str = ""  # what the server or the client prints then


def quake(data: bytes) -> str | None:
    if not data.startswith(QUAKE + b"infoResponse"):
        return None
    fields = data.decode("latin-1").split("\\")
    info = dict(zip(fields[1::2], fields[2::2], strict=False))
    return f"{info.get('hostname')}, {info.get('mapname')}"


def ddnet(data: bytes) -> str | None:
    fields = data.removeprefix(lan_search.ANSWER).split(b"\0")
    return f"{fields[2].decode()}, {fields[3].decode()}" if data.startswith(lan_search.ANSWER) else None


def bzflag(data: bytes) -> str | None:
    return data[4:12].decode() if data[2:4] == b"\x03\x03" else None


def openttd(data: bytes) -> str | None:
    return (
        "there is a server" if data == b"\x03\x00\x01" else None
    )  # all it says; the rest is asked for by TCP


def freeciv(data: bytes) -> str | None:
    fields = data[1:].split(b"\0")  # after the protocol's version: host, port, version, state …
    return f"{fields[2].decode()} at port {fields[1].decode()}" if data[:1] == b"\x02" else None


def supertuxkart(data: bytes) -> str | None:
    return data[5 : 5 + data[4]].decode() if data[:3] == bytes(3) and len(data) > 12 else None


def luanti(data: bytes) -> str | None:
    return "a peer id, as to who connects" if data[:4] == b"OEt\x03" and len(data) == 14 else None


def warzone2100(data: bytes) -> str | None:
    return "whether a version may join" if len(data) == 4 else None


def mumble(data: bytes) -> str | None:
    return (
        f"version {'.'.join(map(str, data[1:4]))}" if len(data) == 24 and data[4:12] == b"tunfwd!!" else None
    )


TRIALS: Final = {
    "ddnet": Trial(
        package="ddnet-server",
        server="/usr/games/DDNet-Server -f {folder}/server.cfg",
        files={"server.cfg": 'sv_name "LAN party"\nsv_register 0\n'},
        question=lan_search.QUESTION,
        port=8303,
        answer=ddnet,
    ),
    "openttd": Trial(
        package="openttd",
        server="stdbuf -oL /usr/games/openttd -D 0.0.0.0:3979 -x -c {folder}/server.cfg",
        files={"client/openttd.cfg": "[network]\nclient_name = player1\n"},
        question=b"\x03\x00\x00",
        port=3979,
        answer=openttd,
        client="/usr/games/openttd -v null:ticks=100000000 -s null -m null -b null -x"
        " -c {folder}/client/openttd.cfg -n {address}:3979",
        seen=r"\*\*\* player1 has started a new company",
    ),
    "bzflag": Trial(
        package="bzflag-server",
        server="/usr/games/bzfs -p 5154 -d",
        question=b"\x00\x02\x04\x04\x00\x00",
        port=5154,
        answer=bzflag,
        client="/usr/games/bzadmin -ui stdboth player1@{address}:5154 /date /quit",
        seen=r"player1 \[\d+\] -> All: /date|Player player1 \[\d+\] has joined",
    ),
    "freeciv": Trial(
        package="freeciv-server",
        server="/usr/games/freeciv-server --identity none --Announce IPv4 -p 5556 -s {folder}",
        question=b"\x02",
        port=4555,
        to="225.1.1.1",
        hear=4556,
        answer=freeciv,
    ),
    "openarena": Trial(
        package="openarena-server",
        server="/usr/games/openarena-server +set net_port 27960 +set sv_hostname LAN +map oa_dm1",
        question=QUAKE + b"getinfo xxx",
        port=27960,
        answer=quake,
        client="xvfb-run -a /usr/games/openarena +set r_fullscreen 0 +set s_initsound 0 +set developer 1"
        " +localservers +wait 100 +localservers",  # its own LAN search
        client_packages=("openarena", "xvfb"),
        played="found it",
        seen=r"CL packet {address}:27960: infoResponse",
    ),
    "xonotic": Trial(
        package="nexuiz-server",
        server="/usr/games/nexuiz-server +port 26000 +hostname LAN +sv_public 0",
        question=QUAKE + b"getinfo",
        port=26000,
        answer=quake,
    ),
    "supertuxkart": Trial(
        package="supertuxkart",
        server="stdbuf -oL /usr/games/supertuxkart --lan-server=LAN --no-graphics --network-console",
        question=bytes((len(STK_QUESTION),)) + STK_QUESTION,
        port=2757,
        to="10.77.255.255",  # its search asks the broadcast address of each interface
        answer=supertuxkart,
        client="stdbuf -oL /usr/games/supertuxkart --no-graphics --connect-now={address}:2759 --network-ai=1",
        seen="ClientLobby: The server accepted the connection",
    ),
    "luanti": Trial(
        package="minetest-server",
        server="/usr/games/minetestserver --world {folder}/world --gameid minetest_game --logfile {folder}/l",
        question=bytes.fromhex("4f45740300000001"),
        port=30000,
        to=None,
        answer=luanti,
    ),
    "warzone2100": Trial(
        package="warzone2100",
        server="/usr/games/warzone2100 --configdir={folder} --autohost=lan.json --headless --nosound"
        " --gameport=2100",
        files={
            "autohost/lan.json": '{"challenge": {"map": "Vision", "maxPlayers": 2, "scavengers": 0,'
            ' "alliances": 0, "powerLevel": 1, "bases": 1, "techLevel": 1, "name": "LAN party",'
            ' "spectatorHost": true, "openSpectatorSlots": 1}, "player_0": {"team": 0},'
            ' "player_1": {"team": 1}}'
        },
        question=bytes.fromhex("0000100000000001"),  # of a version that there never was
        port=2100,
        to=None,
        protocol="tcp",
        answer=warzone2100,
    ),
    "mumble": Trial(
        package="mumble-server",
        server="/usr/sbin/murmurd -fg -ini {folder}/mumble.ini",
        files={
            "mumble.ini": "database={folder}/mumble.sqlite\nlogfile=\npidfile=\nice=\ndbus=\nbonjour=false\n"
        },
        question=b"\0\0\0\0tunfwd!!",
        port=64738,
        to=None,
        answer=mumble,
    ),
}
