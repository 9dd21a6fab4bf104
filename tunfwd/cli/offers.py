"""`tunfwd offer`, `offers`, `accept`, `deny`, `request`, `ports`, `kill`: the life of a forwarded port."""

import click

from tunfwd.cli.arguments import (
    OFFER_NAME,
    PORT,
    PORT_SPEC,
    TARGET,
    assume_tcp,
    complete_contacts,
    complete_offers,
    from_option,
    json_option,
)
from tunfwd.cli.output import hint, note, say, show, show_table, size
from tunfwd.cli.session import Session
from tunfwd.common.notation import PortSpec
from tunfwd.control import api


@click.command()
@click.argument("port", type=PORT_SPEC, metavar="PORT/PROTO")
@click.option(
    "--to",
    multiple=True,
    required=True,
    metavar="NAME",
    shell_complete=complete_contacts,
    help="A contact, group:GROUP, group:GROUP/NAME or conference:NAME. May be repeated.",
)
@click.option("--name", type=OFFER_NAME, metavar="TEXT", help="What it is, for people.")
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
    help="Whom the service sees: the peer's virtual address, or this host. auto: by where it listens, once.",
)
@json_option
@click.pass_context
def offer(
    ctx: click.Context,
    *,
    port: PortSpec,
    to: tuple[str, ...],
    name: str | None,
    target: str | None,
    source: str,
    as_json: bool,
) -> None:
    """Offer a service of this machine, such as 8080/tcp.

    The offer stands until `tunfwd kill`, also when they are offline now.
    """
    spec = assume_tcp(port)
    result = Session.of(ctx).call(
        api.OFFER_ADD,
        protocol=spec.protocol,
        port=spec.port,
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
@json_option
@click.pass_context
def accept(
    ctx: click.Context,
    *,
    offer: str,
    contact: str | None,
    port: int | None,
    target: str | None,
    as_json: bool,
) -> None:
    """Accept an offer.

    OFFER is its name or the beginning of its id. It stays accepted: when they offer it again, so it is again.
    """
    result = Session.of(ctx).call(api.OFFER_ACCEPT, offer=offer, contact=contact, port=port, target=target)
    show(result, as_json, lambda shown: _accepted(shown["mapping"]))


@click.command()
@click.argument("offer", shell_complete=complete_offers)
@from_option
@json_option
@click.pass_context
def deny(ctx: click.Context, offer: str, contact: str | None, as_json: bool) -> None:
    """Decline an offer; they are told.

    OFFER is its name or the beginning of its id.
    """
    result = Session.of(ctx).call(api.OFFER_DENY, offer=offer, contact=contact)
    show(
        result,
        as_json,
        lambda shown: say(*(f"denied {_one(entry)} of {entry['contact']}" for entry in shown["offers"])),
    )


@click.command()
@click.argument("port", type=PORT_SPEC, metavar="PORT/PROTO")
@click.option(
    "--from",
    "contact",
    required=True,
    metavar="NAME",
    shell_complete=complete_contacts,
    help="The contact whose service it is.",
)
@click.option("--port", "local_port", type=PORT, metavar="PORT", help="Reach it at this port instead.")
@click.option("--name", type=OFFER_NAME, metavar="TEXT", help="What it is for, for people.")
@json_option
@click.pass_context
def request(
    ctx: click.Context,
    *,
    port: PortSpec,
    contact: str,
    local_port: int | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Ask a contact for one of its ports, such as 22/tcp.

    A person or a rule over there decides.
    """
    spec = assume_tcp(port)
    result = Session.of(ctx).call(
        api.REQUEST, protocol=spec.protocol, port=spec.port, contact=contact, local_port=local_port, name=name
    )
    show(
        result,
        as_json,
        lambda shown: say(
            *(f"asked {entry['contact']} for {_one(entry)}{_waiting(entry)}" for entry in shown["offers"])
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

    ID is the beginning of its id, or its name.
    """
    result = Session.of(ctx).call(api.KILL, id=id, contact=contact)
    show(
        result,
        as_json,
        lambda shown: say(*(f"ended {_named(entry)}, {entry['contact']}" for entry in shown["killed"])),
    )


def _offered(result: api.OffersResult) -> None:
    for entry in result["offers"]:
        say(f"offered {_one(entry)} to {entry['contact']}{_waiting(entry)}")
    if result["offers"]:
        _tell_what_it_sees(result["offers"][0])


def _accepted(mapping: api.MappingEntry) -> None:
    what = f"{mapping['port']}/{mapping['protocol']}"
    called = f"{mapping['name']}, " if mapping["name"] else ""
    waiting = " once they are online" if mapping["state"] == "waiting" else ""
    if mapping["direction"] == "server":
        say(f"{called}{what} of {mapping['contact']} is at {_virtual(mapping)}{waiting}")
    else:
        say(
            f"{mapping['contact']} may reach {mapping['target'] or 'this machine'} as {called}{what}{waiting}"
        )
        _tell_what_it_sees(mapping)


def _tell_what_it_sees(entry: api.OfferEntry | api.MappingEntry) -> None:
    """Say what a person should know of the service that was just opened to others."""
    what = f"{entry['target']} ({entry['protocol']})"
    if trouble := entry.get("trouble"):
        note(f"{what}: {trouble}")
    elif entry.get("sees") == "host":
        note(f"{what} sees this machine, not who connects: what it lets local programs do, they may do")


def _offers_table(result: api.OffersResult) -> None:
    entries = result["offers"]
    show_table(
        ("ID", "PEER", "FROM", "KIND", "PORT", "NAME", "TARGET", "SEES", "STATE"),
        (
            [
                entry["id"],
                entry["contact"],
                "us" if entry["origin"] == "local" else "them",
                entry["direction"],
                f"{entry['port'] or 'any'}/{entry['protocol']}",
                entry["name"],
                entry["target"],
                entry.get("sees"),
                _state(entry),
            ]
            for entry in entries
        ),
        empty="No offers. Make one with: tunfwd offer 8080/tcp --to NAME",
    )
    if any(entry["origin"] == "remote" and entry["state"] == "pending" for entry in entries):
        hint("Answer what is pending with: tunfwd accept NAME|ID, or: tunfwd deny NAME|ID")
    for contact, count in result.get("unseen", {}).items():
        hint(f"{contact} offers {count} more, which there is no room for: they come when others are answered")


def _ports_table(result: api.MappingsResult) -> None:
    show_table(
        ("ID", "PEER", "PROTO", "VIRTUAL", "TARGET", "SEES", "NAME", "STATE", "CONNS", "TX", "RX", "DROPS"),
        (
            [
                entry["id"],
                entry["contact"],
                entry["protocol"],
                _virtual(entry),
                entry["target"],
                entry.get("sees"),
                entry["name"],
                _state(entry),
                entry["connections"],
                size(entry["tx_bytes"]),
                size(entry["rx_bytes"]),
                entry["drops"],
            ]
            for entry in result["ports"]
        ),
        empty="No ports. Accept an offer (tunfwd offers) with: tunfwd accept NAME|ID",
    )


def _state(entry: api.OfferEntry | api.MappingEntry) -> str:
    trouble = entry.get("trouble")
    return f"{entry['state']}, {trouble}" if trouble else entry["state"]


def _one(entry: api.OfferEntry) -> str:
    name = f" as {entry['name']}" if entry["name"] else ""
    return f"{entry['port']}/{entry['protocol']}{name} ({entry['id']})"


def _named(entry: api.Killed) -> str:
    return f"{entry['name']} ({entry['id']})" if entry["name"] else entry["id"]


def _waiting(entry: api.OfferEntry) -> str:
    return "; it goes out once they are online" if entry["state"] == "waiting" else ""


def _virtual(entry: api.MappingEntry) -> str:
    return f"{entry['address'] or '[' + entry['address6'] + ']'}:{entry['port']}"
