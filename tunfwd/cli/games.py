"""`tunfwd game`: a game's ports, offered to a group and accepted of its members, by its name.

Over `offer` and `accept`, which do the same by hand: profiles are data (games.toml), and the daemon knows
nothing of games. What members offer is accepted by its ports, whatever they call it.
"""

import time
from collections.abc import Callable, Collection, Set
from typing import Final, TypedDict

import click

from tunfwd.cli.arguments import json_option
from tunfwd.cli.game_profiles import Game, find, games
from tunfwd.cli.offers import virtual
from tunfwd.cli.output import hint, note, say, show, show_json, show_table
from tunfwd.cli.session import Session
from tunfwd.cli.together import together
from tunfwd.common.errors import UserError
from tunfwd.common.notation import PortSpec
from tunfwd.control import api

LOOK: Final = 0.5  # s between looks at what members offer

group_option = click.option("--group", required=True, metavar="GROUP", help="The group that plays.")
stay_option = click.option(
    "--stay", is_flag=True, help="Go on accepting what members of the group offer for it, until Ctrl-C."
)


class GameEntry(TypedDict):
    """A profile, as `game list` has it."""

    name: str
    title: str
    host: list[str]
    player: list[str]
    finds: str
    needs: str
    note: str
    tried: str


class Played(TypedDict):
    """What `game host` and `game join` have done."""

    game: GameEntry
    group: str
    offers: list[api.OfferEntry]  # ours, standing
    mappings: list[api.MappingEntry]  # theirs, accepted


@click.group("game")
def game() -> None:
    """Play on a LAN that is a group."""


@game.command("list")
@json_option
def list_games(as_json: bool) -> None:
    """List the games that are known, and how each finds its servers."""
    entries = [_entry(name, one) for name, one in games().items()]
    if as_json:
        show_json({"games": entries})
        return
    show_table(
        ("NAME", "GAME", "HOST", "PLAYERS", "SERVERS"),
        (
            [one["name"], one["title"], " ".join(one["host"]), " ".join(one["player"]) or "-", _servers(one)]
            for one in entries
        ),
        empty="",
    )
    hint(
        "Start one with: tunfwd game host NAME --group GROUP; play with: tunfwd game join NAME --group GROUP"
    )


@game.command()
@click.argument("name")
@group_option
@stay_option
@json_option
@click.pass_context
def host(ctx: click.Context, *, name: str, group: str, stay: bool, as_json: bool) -> None:
    """Offer a game's server on this machine to a group."""
    _play(Session.of(ctx), name, group, timeout=0.0, stay=stay, as_json=as_json, hosting=True)


@game.command()
@click.argument("name")
@group_option
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86400),
    default=120.0,
    show_default=True,
    help="Seconds to wait for a member who offers it.",
)
@stay_option
@json_option
@click.pass_context
def join(ctx: click.Context, *, name: str, group: str, timeout: float, stay: bool, as_json: bool) -> None:
    """Accept a game's servers of a group's members, so that the game finds them."""
    _play(Session.of(ctx), name, group, timeout=timeout, stay=stay, as_json=as_json, hosting=False)


def _play(
    session: Session, name: str, group: str, *, timeout: float, stay: bool, as_json: bool, hosting: bool
) -> None:
    profile = find(name)
    party = _Party(session, name, session_group(session, group))
    ours, theirs = profile.host_ports, profile.player_ports
    if not hosting:
        ours, theirs = theirs, ours
    result: Played = {
        "game": _entry(name, profile),
        "group": party.group,
        "offers": party.offer(ours),
        "mappings": party.accept(theirs),
    }
    deadline = time.monotonic() + timeout
    while not result["mappings"] and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(LOOK, left))
        result["mappings"] = party.accept(theirs)
    tell: Callable[[Played], None] = _hosted if hosting else _joined
    show(result, as_json, tell)
    if stay and theirs:
        _go_on(party, theirs)
    elif not hosting and not result["mappings"]:
        raise UserError("timeout", f"nobody in {party.group} offers {name} yet; `--stay` waits for them")


def session_group(session: Session, text: str) -> str:
    """Return the name of a group that we are in. Raises UserError."""
    text = text.removeprefix("group:")
    groups = [one for one in session.call(api.GROUP_LIST)["groups"] if one["kind"] == "group"]
    for one in groups:
        if one["name"] == text or (len(text) >= 8 and one["id"].startswith(text.upper())):
            return one["name"]
    raise UserError("not_found", f"no group {text!r}; `tunfwd group list` lists them")


class _Party:
    """A game and the group that plays it."""

    def __init__(self, session: Session, name: str, group: str) -> None:
        self._session = session
        self._name = name
        self.group = group

    def offer(self, ports: Set[PortSpec]) -> list[api.OfferEntry]:
        """Offer ports to the group, now and later; those that are not yet. Return all of them."""
        label = f"group:{self.group}"
        standing = [
            one
            for one in self._session.call(api.OFFER_LIST)["offers"]
            if one["contact"] == label and one["origin"] == "local" and one["direction"] == "server"
        ]
        known = [one for one in standing if PortSpec(one["port"], one["protocol"]) in ports]
        missing = ports - {PortSpec(one["port"], one["protocol"]) for one in known}
        if not missing:
            return known
        texts = [str(spec) for spec in sorted(missing, key=lambda spec: (spec.port, spec.protocol))]
        made = self._session.call(api.OFFER_ADD, to=[label], ports=texts, name=self._name, source="auto")
        return known + made["offers"]

    def accept(self, ports: Collection[PortSpec]) -> list[api.MappingEntry]:
        """Accept what members offer of these ports. Return all of them that are accepted."""
        for one in self._session.call(api.OFFER_LIST)["offers"] if ports else ():
            if (
                one["origin"] == "remote"
                and one["state"] == "pending"
                and one["direction"] == "server"
                and one["contact"].startswith(f"group:{self.group}/")
                and PortSpec(one["port"], one["protocol"]) in ports
            ):
                self._session.call(api.OFFER_ACCEPT, offer=one["id"], contact=one["contact"])
        return [
            one
            for one in (self._session.call(api.PORTS)["ports"] if ports else ())
            if one["contact"].startswith(f"group:{self.group}/")
            and one["direction"] == "server"
            and one["origin"] == "remote"
            and PortSpec(one["port"], one["protocol"]) in ports
        ]


def _go_on(party: _Party, ports: Collection[PortSpec]) -> None:
    """Accept what comes, until interrupted."""
    note("What members offer for it is accepted from now on; Ctrl-C ends that, and nothing else.")
    seen: set[str] = set()
    try:
        while True:
            for one in party.accept(ports):
                if one["contact"] not in seen:
                    seen.add(one["contact"])
                    note(f"{one['contact']} takes part")
            time.sleep(LOOK)
    except KeyboardInterrupt:
        note("It goes on without this command.")


def _hosted(result: Played) -> None:
    entry = result["game"]
    for one in together(result["offers"]):
        say(f"offered {one.named} to group:{result['group']}")
    if entry["player"]:
        ports = ", ".join(entry["player"])
        rule = f"a [[rule]] for group:{result['group']}/*"
        note(f"Players listen at {ports}: `--stay` accepts that of each, or {rule}")
    _say_how(entry)


def _joined(result: Played) -> None:
    for one in together(result["mappings"], lambda mapping: mapping["address"]):
        say(f"{result['game']['name']}, {one.ports} of {one.first['contact']} is at {virtual(one)}")
    _say_how(result["game"])


def _say_how(entry: GameEntry) -> None:
    if entry["finds"] == "address":
        note("It has no LAN search: players type the address.")
    elif entry["needs"] == "capture":
        note("Its search reaches the group with `[lan] capture = true` at whoever asks or announces.")
    if entry["note"]:
        note(f"Note: {entry['note']}.")


def _servers(entry: GameEntry) -> str:
    if entry["finds"] == "address":
        return "by address"
    return "found" if entry["needs"] == "nothing" else "found, with [lan] capture"


def _entry(name: str, profile: Game) -> GameEntry:
    return {
        "name": name,
        "title": profile.title,
        "host": list(profile.host),
        "player": list(profile.player),
        "finds": profile.finds,
        "needs": profile.needs,
        "note": profile.note,
        "tried": profile.tried,
    }
