"""`tunfwd pause`, `resume`, `change`: what is done to an offer of ours that stands."""

import click

from tunfwd.cli.arguments import OFFER_NAME, PORT, TARGET, complete_offers, json_option
from tunfwd.cli.offers import tell_what_it_sees
from tunfwd.cli.output import note, say, show
from tunfwd.cli.session import Session
from tunfwd.cli.together import together
from tunfwd.control import api

offer_argument = click.argument("offer", metavar="NAME|PORT|ID", shell_complete=complete_offers)
to_option = click.option("--to", "contact", metavar="NAME", help="To whom it is offered.")


@click.command()
@offer_argument
@to_option
@json_option
@click.pass_context
def pause(ctx: click.Context, offer: str, contact: str | None, as_json: bool) -> None:
    """Refuse connections to an offer for now.

    Those that stand are reset. It stays offered, and accepted: `tunfwd resume` is all that it takes.
    """
    result = Session.of(ctx).call(api.OFFER_PAUSE, id=offer, contact=contact)
    show(result, as_json, lambda shown: _tell("paused", shown))


@click.command()
@offer_argument
@to_option
@json_option
@click.pass_context
def resume(ctx: click.Context, offer: str, contact: str | None, as_json: bool) -> None:
    """Take connections to a paused offer again."""
    result = Session.of(ctx).call(api.OFFER_RESUME, id=offer, contact=contact)
    show(result, as_json, lambda shown: _tell("resumed", shown))


@click.command()
@offer_argument
@to_option
@click.option("--name", type=OFFER_NAME, metavar="TEXT", help="Its new name.")
@click.option("--target", type=TARGET, metavar="HOST:PORT", help="Where the service is now.")
@click.option("--here", is_flag=True, help="The service is on this machine again, at the port offered.")
@click.option(
    "--source", type=click.Choice(["auto", "peer", "host"]), help="The address it sees; see `offer`."
)
@click.option("--port", type=PORT, metavar="PORT", help="Offer it at this port: they have to accept it anew.")
@json_option
@click.pass_context
def change(
    ctx: click.Context,
    *,
    offer: str,
    contact: str | None,
    name: str | None,
    target: str | None,
    here: bool,
    source: str | None,
    port: int | None,
    as_json: bool,
) -> None:
    """Change an offer: its name, target, port.

    What stands goes on; new connections go to the new target. Who has accepted it keeps the
    name that they know.
    """
    if here and target is not None:
        raise click.UsageError("the service is at --target or --here")
    if not (here or name is not None or target or source or port):
        raise click.UsageError("nothing to change: give --name, --target, --here, --source or --port")
    result = Session.of(ctx).call(
        api.OFFER_CHANGE,
        id=offer,
        contact=contact,
        name=name,
        target=target,
        here=here,
        source=source,
        port=port,
    )
    show(result, as_json, lambda shown: _tell("offered anew" if port else "changed", shown))
    if port and not as_json:
        note("It was withdrawn at the old port: who had accepted it has to accept it again.")


def _tell(done: str, result: api.OffersResult) -> None:
    for one in together(result["offers"]):
        say(f"{done}: {one.named} to {one.first['contact']}, from {one.target}")
    tell_what_it_sees(result["offers"])
