"""`tunfwd friend …`: who may talk to us at all."""

import sys

import click

from tunfwd.cli.arguments import (
    ADDRESS,
    CONTACT_NAME,
    complete_all,
    complete_contacts,
    complete_requests,
    json_option,
)
from tunfwd.cli.output import hint, note, say, show, show_table
from tunfwd.cli.session import Session
from tunfwd.cli.together import together
from tunfwd.control import api


@click.group(no_args_is_help=False)
def friend() -> None:
    """Befriend people, to reach them and be reached."""


@friend.command()
@click.argument("address", type=ADDRESS)
@click.option(
    "--name", type=CONTACT_NAME, metavar="NAME", help="What to call them here. [default: their nickname]"
)
@click.option("--message", metavar="TEXT", help="The message that they read with the request.")
@json_option
@click.pass_context
def add(ctx: click.Context, address: str, name: str | None, message: str | None, as_json: bool) -> None:
    """Ask the owner of a Tox ADDRESS (`tunfwd id` over there) to be a friend."""
    result = Session.of(ctx).call(api.FRIEND_ADD, address=address, name=name, message=message)
    show(result, as_json, _asked)


@friend.command("list")
@json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List friends, and those who ask to be (pending)."""
    show(Session.of(ctx).call(api.FRIEND_LIST), as_json, _table)


@friend.command()
@click.argument("key", shell_complete=complete_requests)
@click.option(
    "--name", type=CONTACT_NAME, metavar="NAME", help="What to call them here. [default: their nickname]"
)
@json_option
@click.pass_context
def accept(ctx: click.Context, key: str, name: str | None, as_json: bool) -> None:
    """Accept the request of someone, named by the beginning of their public KEY."""
    result = Session.of(ctx).call(api.FRIEND_ACCEPT, key=key, name=name)
    show(
        result,
        as_json,
        lambda shown: say(f"{_called(shown['friend'])} is a friend now{_at(shown['friend'])}"),
    )


@friend.command()
@click.argument("key", shell_complete=complete_requests)
@json_option
@click.pass_context
def reject(ctx: click.Context, key: str, as_json: bool) -> None:
    """Reject the request of someone, named by the beginning of their public KEY. They are not told."""
    result = Session.of(ctx).call(api.FRIEND_REJECT, key=key)
    show(result, as_json, lambda shown: say(f"rejected the request of {shown['friend']['public_key']}"))


@friend.command()
@click.argument("name", shell_complete=complete_contacts)
@click.argument("to", metavar="NEW_NAME", type=CONTACT_NAME)
@json_option
@click.pass_context
def rename(ctx: click.Context, name: str, to: str, as_json: bool) -> None:
    """Call a friend by another name. Rules go by the names that you give, not by nicknames."""
    result = Session.of(ctx).call(api.FRIEND_RENAME, name=name, to=to)
    show(result, as_json, lambda shown: say(f"{name} is called {_called(shown['friend'])} now"))


@click.command("rename")
@click.argument("name", shell_complete=complete_all)
@click.argument("to", metavar="NEW_NAME", type=CONTACT_NAME)
@json_option
@click.pass_context
def rename_any(ctx: click.Context, name: str, to: str, as_json: bool) -> None:
    """Call a friend, or a group, by another name here.

    Rules go by the names that you give, not by what others call themselves.
    """
    if name.startswith("group:"):
        group = Session.of(ctx).call(api.GROUP_RENAME, group=name.removeprefix("group:"), to=to)
        show(group, as_json, lambda shown: say(f"{name} is called group:{shown['group']['name']} now"))
        return
    result = Session.of(ctx).call(api.FRIEND_RENAME, name=name, to=to)
    show(result, as_json, lambda shown: say(f"{name} is called {_called(shown['friend'])} now"))


@friend.command()
@click.argument("name", shell_complete=complete_contacts)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def remove(ctx: click.Context, name: str, yes: bool, as_json: bool) -> None:
    """End a friendship, with all its offers and connections.

    What was agreed is withdrawn, so that they are told of it; that they were removed they are not. On a
    terminal it asks.
    """
    session = Session.of(ctx)
    if not yes and sys.stdin.isatty():
        _say_what_is_lost(session, name)
        click.confirm(f"Remove {name}?", abort=True, err=True)
    show(session.call(api.FRIEND_REMOVE, name=name), as_json, _removed)


@friend.command()
@click.argument("who", metavar="NAME|KEY|ADDRESS", shell_complete=complete_contacts)
@json_option
@click.pass_context
def block(ctx: click.Context, who: str, as_json: bool) -> None:
    """Drop all friend requests of a key, whatever they come with; a friend is a friend no more.

    They are not told.
    """
    result = Session.of(ctx).call(api.FRIEND_BLOCK, who=who)
    show(result, as_json, lambda shown: say(*(f"{_blocked(one)} is blocked" for one in shown["blocked"])))


@friend.command()
@click.argument("who", metavar="NAME|KEY")
@json_option
@click.pass_context
def unblock(ctx: click.Context, who: str, as_json: bool) -> None:
    """Let someone ask to be a friend again."""
    result = Session.of(ctx).call(api.FRIEND_UNBLOCK, who=who)
    show(
        result,
        as_json,
        lambda shown: say(*(f"{_blocked(one)} may ask again" for one in shown["blocked"])),
    )


@friend.command()
@json_option
@click.pass_context
def blocked(ctx: click.Context, as_json: bool) -> None:
    """List who is blocked."""
    show(
        Session.of(ctx).call(api.FRIEND_BLOCKED),
        as_json,
        lambda shown: show_table(
            ("NAME", "PUBLIC KEY"),
            ([one["name"], one["public_key"]] for one in shown["blocked"]),
            empty="Nobody is blocked.",
        ),
    )


def _say_what_is_lost(session: Session, name: str) -> None:
    """Tell what ends with a friendship: who begins another starts anew."""
    offers = [one for one in session.call(api.OFFER_LIST)["offers"] if one["contact"] == name]
    note(f"The friendship with {name} ends, and another takes a new request. With it:")
    for one in together(offers):
        note(f"  {one.named}, {one.state}")
    if not offers:
        note("  nothing that is offered or accepted")


def _removed(result: api.FriendResult) -> None:
    names = dict.fromkeys(one["name"] or one["id"] for one in result.get("ended", []))
    with_it = f"; ended with it: {', '.join(names)}" if names else ""
    say(f"{_called(result['friend'])} is no longer a friend{with_it}")


def _blocked(one: api.BlockedEntry) -> str:
    return one["name"] or one["public_key"]


def _table(result: api.FriendsResult) -> None:
    friends = result["friends"]
    show_table(
        ("NAME", "STATE", "IP", "PUBLIC KEY", "MESSAGE"),
        ([one["name"], one["state"], one["address"], one["public_key"], one["message"]] for one in friends),
        empty="No friends. Tell someone what `tunfwd id` prints, or ask them with: tunfwd friend add ADDRESS",
    )
    if any(one["state"] == "pending" for one in friends):
        hint("Answer who is pending with: tunfwd friend accept KEY --name NAME, or: tunfwd friend reject KEY")


def _asked(result: api.FriendResult) -> None:
    called = _called(result["friend"])
    if result.get("network") == "offline":
        say(f"the request to {called} waits: not connected yet: it goes out when we are (tunfwd status)")
    else:
        say(f"{called} has been asked; over there: tunfwd friend accept KEY")


def _called(one: api.FriendEntry) -> str:
    return one["name"] or one["public_key"]


def _at(one: api.FriendEntry) -> str:
    return f", at {one['address']}" if one["address"] else ""
