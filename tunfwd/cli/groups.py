"""`tunfwd group …` and `tunfwd conference …`: many people at once.

A group (NGC) makes every member a contact of its own. A conference, the older kind, only leads to those of
its members who are our friends.
"""

from pathlib import Path

import click

from tunfwd.cli.arguments import CONTACT_NAME, complete_contacts, json_option
from tunfwd.cli.output import hint, say, show, show_table
from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError
from tunfwd.control import api

MAX_PASSWORD = 32  # bytes; TOX_GROUP_MAX_PASSWORD_SIZE


def _password(ctx: click.Context, param: click.Parameter, file: Path | None) -> str | None:
    """The first line of a file: on the command line itself, everyone on the machine could read it."""
    if file is None:
        return None
    try:
        with file.open(encoding="utf-8") as opened:
            password = opened.readline(4 * MAX_PASSWORD).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as wrong:
        raise UserError("usage", f"the password in {file} cannot be read: {wrong}") from None
    if not 0 < len(password.encode()) <= MAX_PASSWORD:
        raise UserError("usage", f"the first line of {file} is no password of 1 to {MAX_PASSWORD} bytes")
    return password


password_option = click.option(
    "--password-file",
    "password",
    type=click.Path(path_type=Path),
    callback=_password,
    metavar="FILE",
    help="A file whose first line is the group's password.",
)


@click.group(no_args_is_help=False)
def group() -> None:
    """Groups: each member is a contact with an address of its own."""


@group.command("create")
@click.argument("name", type=CONTACT_NAME)
@click.option(
    "--public", is_flag=True, help="Whoever knows its chat id can join. [default: by invitation only]"
)
@password_option
@json_option
@click.pass_context
def group_create(ctx: click.Context, name: str, public: bool, password: str | None, as_json: bool) -> None:
    """Found a group."""
    result = Session.of(ctx).call(api.GROUP_CREATE, name=name, public=public, password=password)
    show(
        result,
        as_json,
        lambda shown: say(f"founded {shown['group']['name']}, chat id {shown['group']['id']}"),
    )


@group.command("invite")
@click.argument("group")
@click.argument("friend", shell_complete=complete_contacts)
@json_option
@click.pass_context
def group_invite(ctx: click.Context, group: str, friend: str, as_json: bool) -> None:
    """Invite a friend into a group."""
    result = Session.of(ctx).call(api.GROUP_INVITE, group=group, friend=friend)
    show(result, as_json, lambda shown: say(f"invited {friend} into {shown['group']['name']}"))


@group.command("join")
@click.argument("group", metavar="CHAT_ID|INVITATION")
@click.option(
    "--name", type=CONTACT_NAME, metavar="NAME", help="What to call it here. [default: as its founder does]"
)
@password_option
@json_option
@click.pass_context
def group_join(ctx: click.Context, group: str, name: str | None, password: str | None, as_json: bool) -> None:
    """Join a group by its chat id, or accept an invitation, named by its group's name or id."""
    result = Session.of(ctx).call(api.GROUP_JOIN, group=group, name=name, password=password)
    show(result, as_json, lambda shown: _joined(shown["group"]))


@group.command("rename")
@click.argument("group")
@click.argument("to", metavar="NEW_NAME", type=CONTACT_NAME)
@json_option
@click.pass_context
def group_rename(ctx: click.Context, group: str, to: str, as_json: bool) -> None:
    """Call a group by another name, here. Rules go by the names that you give, not by its founder's."""
    result = Session.of(ctx).call(api.GROUP_RENAME, group=group, to=to)
    show(result, as_json, lambda shown: say(f"{group} is called {shown['group']['name']} now"))


@group.command("list")
@json_option
@click.pass_context
def group_list(ctx: click.Context, as_json: bool) -> None:
    """List groups, and invitations into groups."""
    show(Session.of(ctx).call(api.GROUP_LIST), as_json, lambda shown: _groups_table(shown, "group"))


@group.command("peers")
@click.argument("group")
@json_option
@click.pass_context
def group_peers(ctx: click.Context, group: str, as_json: bool) -> None:
    """List the members of a group."""
    show(Session.of(ctx).call(api.GROUP_PEERS, group=group), as_json, _members_table)


@group.command("kick")
@click.argument("group")
@click.argument("member")
@json_option
@click.pass_context
def group_kick(ctx: click.Context, group: str, member: str, as_json: bool) -> None:
    """Put a member out of a group that we founded or moderate."""
    result = Session.of(ctx).call(api.GROUP_KICK, group=group, member=member)
    show(result, as_json, lambda shown: say(f"put {member} out of {shown['group']['name']}"))


@group.command("leave")
@click.argument("group")
@json_option
@click.pass_context
def group_leave(ctx: click.Context, group: str, as_json: bool) -> None:
    """Leave a group for good, or decline an invitation."""
    result = Session.of(ctx).call(api.GROUP_LEAVE, group=group)
    show(result, as_json, lambda shown: say(f"left {shown['group']['name']}"))


@click.group(no_args_is_help=False)
def conference() -> None:
    """Conferences: those members who are friends can be reached."""


@conference.command("create")
@click.argument("name", type=CONTACT_NAME)
@json_option
@click.pass_context
def conference_create(ctx: click.Context, name: str, as_json: bool) -> None:
    """Found a conference."""
    result = Session.of(ctx).call(api.CONFERENCE_CREATE, name=name)
    show(result, as_json, lambda shown: say(f"founded {shown['group']['name']}"))


@conference.command("invite")
@click.argument("conference")
@click.argument("friend", shell_complete=complete_contacts)
@json_option
@click.pass_context
def conference_invite(ctx: click.Context, conference: str, friend: str, as_json: bool) -> None:
    """Invite a friend into a conference."""
    result = Session.of(ctx).call(api.CONFERENCE_INVITE, group=conference, friend=friend)
    show(result, as_json, lambda shown: say(f"invited {friend} into {shown['group']['name']}"))


@conference.command("join")
@click.argument("invitation")
@json_option
@click.pass_context
def conference_join(ctx: click.Context, invitation: str, as_json: bool) -> None:
    """Accept an invitation, named by its conference's name or the friend who invites."""
    result = Session.of(ctx).call(api.CONFERENCE_JOIN, group=invitation)
    show(result, as_json, lambda shown: _joined(shown["group"]))


@conference.command("list")
@json_option
@click.pass_context
def conference_list(ctx: click.Context, as_json: bool) -> None:
    """List conferences, and invitations into conferences."""
    show(Session.of(ctx).call(api.CONFERENCE_LIST), as_json, lambda shown: _groups_table(shown, "conference"))


@conference.command("peers")
@click.argument("conference")
@json_option
@click.pass_context
def conference_peers(ctx: click.Context, conference: str, as_json: bool) -> None:
    """List the members of a conference, and how those who are no friends could be reached."""
    show(Session.of(ctx).call(api.CONFERENCE_PEERS, group=conference), as_json, _members_table)


@conference.command("leave")
@click.argument("conference")
@json_option
@click.pass_context
def conference_leave(ctx: click.Context, conference: str, as_json: bool) -> None:
    """Leave a conference for good, or decline an invitation."""
    result = Session.of(ctx).call(api.CONFERENCE_LEAVE, group=conference)
    show(result, as_json, lambda shown: say(f"left {shown['group']['name']}"))


def _joined(entry: api.GroupEntry) -> None:
    name = entry["name"] or entry["id"]
    say(f"in {name}" if entry["state"] == "online" else f"joining {name}; see: tunfwd {entry['kind']} list")


def _groups_table(result: api.GroupsResult, kind: str) -> None:
    entries = result["groups"]
    show_table(
        ("NAME", "STATE", "MEMBERS", "INVITED BY", "ID"),
        (
            [
                entry["name"],
                f"{entry['state']} ({entry['reason']})" if entry["reason"] else entry["state"],
                "-" if entry["state"] == "invited" else entry["members"],
                entry["inviter"],
                entry["id"],
            ]
            for entry in entries
        ),
        empty=f"No {kind}s. Found one with: tunfwd {kind} create NAME",
    )
    if any(entry["state"] == "invited" for entry in entries):
        hint(f"Answer an invitation with: tunfwd {kind} join NAME, or: tunfwd {kind} leave NAME")


def _members_table(result: api.MembersResult) -> None:
    entry = result["group"]
    show_table(
        ("IP", "NAME", "LINK", "PUBLIC KEY", "NOTE"),
        (
            [
                member["address"],
                member["name"],
                member["link"] if member["reachable"] else "not reachable",
                member["public_key"],
                member["advice"],
            ]
            for member in result["peers"]
        ),
        empty=f"Nobody else is there. Invite a friend: tunfwd {entry['kind']} invite {entry['name']} NAME",
    )
