"""`tunfwd offer`, `offers`, `accept`, `deny`, `request`, `ports`, `kill`: the life of a forwarded port."""

import sys
from collections.abc import Sequence
from typing import Final

import click

from tunfwd.cli.arguments import (
    OFFER_NAME,
    PORT,
    TARGET,
    assume_tcp,
    complete_all,
    complete_contacts,
    complete_offers,
    from_option,
    json_option,
    ports_for,
)
from tunfwd.cli.output import hint, note, say, show, show_table, size
from tunfwd.cli.session import Session
from tunfwd.cli.together import Together, together
from tunfwd.common.errors import UserError
from tunfwd.common.ports import PortRange
from tunfwd.control import api


@click.command()
@click.argument("ports", type=ports_for("--to"), metavar="PORT/PROTO...", nargs=-1, required=True)
@click.option(
    "--to",
    multiple=True,
    required=True,
    metavar="NAME",
    shell_complete=complete_all,
    help="A contact, group:GROUP, group:GROUP/NAME, conference:NAME, or all: every friend. May be repeated.",
)
@click.option("--name", type=OFFER_NAME, metavar="TEXT", help="A name for it, for people.")
@click.option(
    "--target",
    type=TARGET,
    metavar="HOST:PORT",
    help="Where the service is. [default: this machine, at PORT]",
)
@click.option(
    "--source",
    type=click.Choice(["auto", "peer", "host"]),
    default="auto",
    show_default=True,
    help="The address the service sees: the peer's or this host's. auto: decided once, by where it listens.",
)
@json_option
@click.pass_context
def offer(
    ctx: click.Context,
    *,
    ports: tuple[PortRange, ...],
    to: tuple[str, ...],
    name: str | None,
    target: str | None,
    source: str,
    as_json: bool,
) -> None:
    """Offer services of this machine, such as 8080/tcp.

    Several ports and ranges are one offer: 27015/tcp 27020-27030/udp.

    The offer stands until `tunfwd kill`, also when they are offline now. Ports of one name are accepted and
    ended together.
    """
    result = Session.of(ctx).call(
        api.OFFER_ADD,
        ports=assume_tcp(ports),
        to=list(to),
        name=name,
        target=target,
        source=source,
    )
    show(result, as_json, _offered)


@click.command()
@json_option
@click.pass_context
def offers(ctx: click.Context, as_json: bool) -> None:
    """List offers, ours and theirs."""
    show(Session.of(ctx).call(api.OFFER_LIST), as_json, _offers_table)


@click.command()
@click.argument("offer", shell_complete=complete_offers)
@from_option
@click.option(
    "--port", type=PORT, metavar="PORT", help="Reach it at this port of the virtual address instead."
)
@click.option(
    "--target", type=TARGET, metavar="HOST:PORT", help="For a request of theirs: what it leads to here."
)
@click.option("--yes", is_flag=True, help="Allow a request of theirs, too, without asking; see `allow`.")
@json_option
@click.pass_context
def accept(
    ctx: click.Context,
    *,
    offer: str,
    contact: str | None,
    port: int | None,
    target: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Accept an offer.

    OFFER is its name or the beginning of its id; a name is of all ports that they offer under it. It stays
    accepted: when they offer it again, so it is again. What you declined, or left, can be accepted still.
    """
    session = Session.of(ctx)

    def call(direction: api.Direction | None) -> api.MappingResult:
        return session.call(
            api.OFFER_ACCEPT, offer=offer, contact=contact, port=port, target=target, direction=direction
        )

    # What opens something of ours is not to be mistaken for what opens something of theirs.
    ours = yes or target is not None
    try:
        result = call(None if ours else "server")
    except UserError as refused:
        if refused.code != "denied":
            raise
        if not sys.stdin.isatty():
            raise UserError("denied", f"{refused.message} lets them, and so does --yes") from None
        if not click.confirm(f"{refused.message.partition(': `')[0]}. Allow it?", err=True):
            raise UserError("denied", "it still waits; `tunfwd deny` declines it") from None
        result = call(None)
    show(result, as_json, lambda shown: _accepted(shown.get("mappings") or [shown["mapping"]]))


@click.command()
@click.argument("request", shell_complete=complete_offers)
@from_option
@click.option("--target", type=TARGET, metavar="HOST:PORT", help="What it leads to. [default: this machine]")
@json_option
@click.pass_context
def allow(
    ctx: click.Context, *, request: str, contact: str | None, target: str | None, as_json: bool
) -> None:
    """Allow a request: let a contact in.

    REQUEST is its port, such as 22/tcp, its name, or the beginning of its id. It stays allowed until
    `tunfwd kill`.
    """
    result = Session.of(ctx).call(
        api.OFFER_ACCEPT, offer=request, contact=contact, target=target, direction="connection"
    )
    show(result, as_json, lambda shown: _accepted(shown.get("mappings") or [shown["mapping"]]))


@click.command()
@click.argument("offer", shell_complete=complete_offers)
@from_option
@json_option
@click.pass_context
def deny(ctx: click.Context, offer: str, contact: str | None, as_json: bool) -> None:
    """Decline an offer or request; they are told.

    OFFER is its name or the beginning of its id. It stays declined until you accept it after all.
    """
    result = Session.of(ctx).call(api.OFFER_DENY, offer=offer, contact=contact)
    show(
        result,
        as_json,
        lambda shown: say(
            *(f"denied {one.named} of {one.first['contact']}" for one in together(shown["offers"]))
        ),
    )


@click.command()
@click.argument("ports", type=ports_for("--from"), metavar="PORT/PROTO...", nargs=-1, required=True)
@click.option(
    "--from",
    "contact",
    required=True,
    metavar="NAME",
    shell_complete=complete_contacts,
    help="The contact whose service it is.",
)
@click.option("--port", "local_port", type=PORT, metavar="PORT", help="Reach it at this port instead.")
@click.option("--name", type=OFFER_NAME, metavar="TEXT", help="A name for it, for people.")
@json_option
@click.pass_context
def request(
    ctx: click.Context,
    *,
    ports: tuple[PortRange, ...],
    contact: str,
    local_port: int | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Ask a contact for ports of its, such as 22/tcp.

    A person or a rule at the other end decides.
    """
    result = Session.of(ctx).call(
        api.REQUEST, ports=assume_tcp(ports), contact=contact, local_port=local_port, name=name
    )
    show(
        result,
        as_json,
        lambda shown: say(
            *(
                f"asked {one.first['contact']} for {one.named}{_waiting(one)}"
                for one in together(shown["offers"])
            )
        ),
    )


@click.command()
@json_option
@click.pass_context
def ports(ctx: click.Context, as_json: bool) -> None:
    """List accepted offers, where each is reached, its traffic."""
    show(Session.of(ctx).call(api.PORTS), as_json, _ports_table)


@click.command()
@click.argument("id", shell_complete=complete_offers)
@from_option
@json_option
@click.pass_context
def kill(ctx: click.Context, id: str, contact: str | None, as_json: bool) -> None:
    """End an offer, accepted or not, and its connections.

    Withdraws what is ours, declines what is theirs and undecided, leaves what was accepted. ID is the
    beginning of its id, or its name; a name is of all ports that are offered under it.
    """
    result = Session.of(ctx).call(api.KILL, id=id, contact=contact)
    show(result, as_json, lambda shown: _tell_ended(shown["killed"]))


@click.command()
@click.argument("id", metavar="PORT|NAME|ID", shell_complete=complete_offers)
@from_option
@json_option
@click.pass_context
def leave(ctx: click.Context, id: str, contact: str | None, as_json: bool) -> None:
    """End our use of an offer, which stays."""
    result = Session.of(ctx).call(api.LEAVE, id=id, contact=contact)
    show(result, as_json, lambda shown: _tell_ended(shown["killed"]))


def _offered(result: api.OffersResult) -> None:
    offered = together(result["offers"])
    for one in offered:
        say(f"offered {one.named} to {one.first['contact']}{_waiting(one)}")
    if offered:
        tell_what_it_sees(offered[0].entries)


def _accepted(mappings: list[api.MappingEntry]) -> None:
    """Say where a mapping is, or all of one name."""
    for one in together(mappings, lambda entry: entry["address"]):
        first = one.first
        called = f"{first['name']}, " if first["name"] not in ("", one.ports) else ""
        waiting = " once they are online" if first["state"] == "waiting" else ""
        if first["direction"] == "server":
            say(f"{called}{one.ports} of {first['contact']} is at {virtual(one)}{waiting}")
            tell_what_is_elsewhere(one.entries)
        else:
            target = one.target or "this machine"
            theirs = f" (their name: {first['name']})" if called else ""
            say(f"{first['contact']} may reach {target}, as {one.ports}{theirs}{waiting}")
            tell_what_it_sees(one.entries)


def _tell_ended(killed: list[api.Killed]) -> None:
    say(*_ended(killed))
    if any(entry.get("how") == "left" for entry in killed):
        note(f"It stays on offer: tunfwd accept {killed[0]['name'] or killed[0]['id']}")
    elif any(entry.get("how") == "declined" for entry in killed):
        note(f"It stays declined, until: tunfwd accept {killed[0]['name'] or killed[0]['id']}")


def _ended(killed: list[api.Killed]) -> list[str]:
    """Say what was ended: for each contact and name once."""
    counts: dict[tuple[str, str], list[api.Killed]] = {}
    for entry in killed:
        counts.setdefault((entry["contact"], entry["name"] or entry["id"]), []).append(entry)
    return [
        f"{entries[0].get('how', 'ended')} {entries[0]['name']} ({len(entries)} ports), {contact}"
        if len(entries) > 1
        else f"{entries[0].get('how', 'ended')} {_named(entries[0])}, {contact}"
        for (contact, _), entries in counts.items()
    ]


def tell_what_it_sees(
    entries: Sequence[api.OfferEntry] | Sequence[api.MappingEntry] | Sequence[api.InviteOffer],
) -> None:
    """Say what a person should know of services that were just opened to others; of many, what most have."""
    lines: dict[str, list[str]] = {}
    for entry in entries:
        what = f"{entry['target']} ({entry['protocol']})"
        if trouble := entry.get("trouble"):
            lines.setdefault(f": {trouble}", []).append(what)
        elif entry.get("sees") == "host":
            lines.setdefault(
                " sees this machine, not who connects: what it lets local programs do, they may do", []
            ).append(what)
    for line, services in lines.items():
        more = f" and {len(services) - 1} more" if len(services) > 1 else ""
        note(f"{services[0]}{more}{line}")


def _offers_table(result: api.OffersResult) -> None:
    requests = [
        one for one in result["offers"] if (one["origin"], one["direction"]) == ("remote", "connection")
    ]
    to_all = {one["id"] for one in result["offers"] if "members" in one}
    parts = [one for one in result["offers"] if one.get("room_offer") in to_all]  # to one member each
    entries = [one for one in result["offers"] if one not in requests and one not in parts]
    entries += result.get("refused", [])
    if entries or not requests:
        _table_of_offers(entries)
    _tell_requests(requests)
    if any(entry["origin"] == "remote" and entry["state"] == "pending" for entry in entries):
        hint("Answer what is pending with: tunfwd accept NAME|ID, or: tunfwd deny NAME|ID")
    for contact, count in result.get("unseen", {}).items():
        hint(f"{contact} offers {count} more, which there is no room for: they come when others are answered")


WHAT: Final[dict[tuple[api.Origin, api.Direction], str]] = {
    ("local", "server"): "ours",
    ("local", "connection"): "asked for",
    ("remote", "server"): "theirs",
    ("remote", "connection"): "they ask",
}


def _table_of_offers(entries: list[api.OfferEntry]) -> None:
    show_table(
        ("ID", "PEER", "WHAT", "PORT", "NAME", "TARGET", "SEES", "STATE"),
        (
            [
                one.id,
                one.first["contact"],
                WHAT[one.first["origin"], one.first["direction"]],
                one.ports,
                one.first["name"],
                one.target,
                one.sees,
                one.state,
            ]
            for one in together(entries)
        ),
        empty="No offers. Make one with: tunfwd offer 8080/tcp --to NAME",
    )


def _tell_requests(requests: list[api.OfferEntry]) -> None:
    """Say what contacts ask to reach here, which is another thing than what they offer."""
    for one in together(requests):
        name, who = one.first["name"], one.first["contact"]
        what = f"reach {one.target} of this machine, as {one.ports}" + (
            f" (their name: {name})" if name else ""
        )
        if one.first["state"] == "pending":
            say(f"{who} asks to {what}: tunfwd allow {one.first['id']}, or: tunfwd deny {one.first['id']}")
        else:
            say(f"{who} may {what}: {one.state} ({one.id})")


def _ports_table(result: api.MappingsResult) -> None:
    show_table(
        ("ID", "PEER", "PROTO", "VIRTUAL", "TARGET", "SEES", "NAME", "STATE", "CONNS", "TX", "RX", "DROPS"),
        (
            [
                one.id,
                one.first["contact"],
                one.first["protocol"],
                virtual(one),
                one.target,
                one.sees,
                one.first["name"],
                one.state,
                one.sum(lambda entry: entry["connections"]),
                size(one.sum(lambda entry: entry["tx_bytes"])),
                size(one.sum(lambda entry: entry["rx_bytes"])),
                one.sum(lambda entry: entry["drops"]),
            ]
            for one in together(result["ports"], lambda entry: entry["protocol"])
        ),
        empty="No ports. Accept an offer (tunfwd offers) with: tunfwd accept NAME|ID",
    )
    tell_what_is_elsewhere(result["ports"])


def tell_what_is_elsewhere(entries: Sequence[api.MappingEntry]) -> None:
    """Say which ports are not what they are in the virtual network, and why."""
    for entry in entries:
        if reason := entry.get("reason"):
            place = f"{entry['virtual_port']}/{entry['protocol']} of {entry['contact']}"
            if entry["port"] == entry.get("virtual_port"):
                note(f"{place} cannot listen here: {reason}")
            else:
                note(f"{place} is at port {entry['port']} here: {reason}")


def _named(entry: api.Killed) -> str:
    return f"{entry['name']} ({entry['id']})" if entry["name"] else entry["id"]


def _waiting(one: Together[api.OfferEntry]) -> str:
    return "; it goes out once they are online" if one.first["state"] == "waiting" else ""


def virtual(one: Together[api.MappingEntry]) -> str:
    """Return the virtual address at which it is reached, with the ports there; ours, where the service is."""
    entry = one.first
    if entry["target"] is None:
        address = entry["address"] or entry["address6"]
    elif (own := entry.get("own_address")) is not None:
        address = own
    else:
        return ""
    return f"[{address}]:{one.numbers}" if ":" in address else f"{address}:{one.numbers}"
