"""`tunfwd group …` and `tunfwd conference …`: many people at once.

A group (NGC) makes every member a contact of its own. A conference, the older kind, only leads to those of
its members who are our friends.
"""

from dataclasses import dataclass
from typing import Literal

import click

from tunfwd.cli.arguments import (
    CONTACT_NAME,
    complete_conferences,
    complete_contacts,
    complete_groups,
    complete_members,
    json_option,
    password_option,
)
from tunfwd.cli.output import hint, say, show, show_table
from tunfwd.cli.session import Session
from tunfwd.cli.share import for_option, tell_ticket, uses_option, wait_for_joiners, wait_option
from tunfwd.control import api
from tunfwd.control.api import Method


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
    """Create a group."""
    result = Session.of(ctx).call(api.GROUP_CREATE, name=name, public=public, password=password)
    show(
        result,
        as_json,
        lambda shown: say(f"created {shown['group']['name']}, chat id {shown['group']['id']}"),
    )


@group.command("join")
@click.argument("group", metavar="CHAT_ID|INVITATION", shell_complete=complete_groups)
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


@group.command("share")
@click.argument("group", shell_complete=complete_groups)
@uses_option
@for_option
@click.option("--no-password", is_flag=True, help="Leave the group's password out of the ticket.")
@wait_option
@json_option
@click.pass_context
def group_share(
    ctx: click.Context,
    *,
    group: str,
    uses: int,
    seconds: float,
    no_password: bool,
    wait: bool | None,
    as_json: bool,
) -> None:
    """Make a ticket to a group, for `tunfwd join`.

    A private group's invites whoever comes by it. A public group's has its chat id and password, and no end.
    """
    result = Session.of(ctx).call(
        api.GROUP_SHARE, group=group, uses=uses, seconds=seconds, with_password=not no_password
    )
    show(result, as_json, tell_ticket)
    wait_for_joiners(ctx, result["invite"], wait, as_json)


@group.command("rename")
@click.argument("group", shell_complete=complete_groups)
@click.argument("to", metavar="NEW_NAME", type=CONTACT_NAME)
@json_option
@click.pass_context
def group_rename(ctx: click.Context, group: str, to: str, as_json: bool) -> None:
    """Call a group by another name, here. Rules go by the names that you give, not by its founder's."""
    result = Session.of(ctx).call(api.GROUP_RENAME, group=group, to=to)
    show(result, as_json, lambda shown: say(f"{group} is called {shown['group']['name']} now"))


@group.command("kick")
@click.argument("group", shell_complete=complete_groups)
@click.argument("member", shell_complete=complete_members)
@json_option
@click.pass_context
def group_kick(ctx: click.Context, group: str, member: str, as_json: bool) -> None:
    """Kick a member from a group that we founded or moderate."""
    result = Session.of(ctx).call(api.GROUP_KICK, group=group, member=member)
    show(result, as_json, lambda shown: say(f"kicked {member} from {shown['group']['name']}"))
    if not as_json:
        hint(f"They may come back; tunfwd group ban {group} NAME keeps them out for good")


@group.command("ban")
@click.argument("group")
@click.argument("member")
@json_option
@click.pass_context
def group_ban(ctx: click.Context, group: str, member: str, as_json: bool) -> None:
    """Ignore a member for good, by its key.

    What was agreed with it ends, also when it comes back; where we founded or moderate the group it is
    kicked, each time. Under a new key it is somebody new.
    """
    result = Session.of(ctx).call(api.GROUP_BAN, group=group, member=member)
    show(result, as_json, lambda shown: say(f"banned {member} from {shown['group']['name']}"))


@group.command("unban")
@click.argument("group")
@click.argument("member", metavar="NAME|KEY")
@json_option
@click.pass_context
def group_unban(ctx: click.Context, group: str, member: str, as_json: bool) -> None:
    """Let a banned member be one again."""
    result = Session.of(ctx).call(api.GROUP_UNBAN, group=group, member=member)
    show(result, as_json, lambda shown: say(f"{member} may be in {shown['group']['name']} again"))


@group.command("banned")
@click.argument("group")
@json_option
@click.pass_context
def group_banned(ctx: click.Context, group: str, as_json: bool) -> None:
    """List who is banned."""
    show(
        Session.of(ctx).call(api.GROUP_BANNED, group=group),
        as_json,
        lambda shown: show_table(
            ("NAME", "PUBLIC KEY"),
            ([one["name"], one["public_key"]] for one in shown["banned"]),
            empty="Nobody is banned.",
        ),
    )


@click.group(no_args_is_help=False)
def conference() -> None:
    """Conferences: those members who are friends can be reached."""


@conference.command("create")
@click.argument("name", type=CONTACT_NAME)
@json_option
@click.pass_context
def conference_create(ctx: click.Context, name: str, as_json: bool) -> None:
    """Create a conference."""
    result = Session.of(ctx).call(api.CONFERENCE_CREATE, name=name)
    show(result, as_json, lambda shown: say(f"created {shown['group']['name']}"))


@conference.command("join")
@click.argument("invitation", shell_complete=complete_conferences)
@json_option
@click.pass_context
def conference_join(ctx: click.Context, invitation: str, as_json: bool) -> None:
    """Accept an invitation, named by its conference's name or the friend who invites."""
    result = Session.of(ctx).call(api.CONFERENCE_JOIN, group=invitation)
    show(result, as_json, lambda shown: _joined(shown["group"]))


@dataclass(frozen=True, slots=True)
class _Shared:
    """What can be done in both kinds of rooms: the methods for one of them."""

    kind: Literal["group", "conference"]
    invite: Method[api.Invite, api.GroupResult]
    list: Method[api.Nothing, api.GroupsResult]
    peers: Method[api.Group, api.MembersResult]
    leave: Method[api.Group, api.GroupResult]
    about_peers: str = ""

    def add_to(self, rooms: click.Group) -> None:
        """Add the commands of one kind."""
        kind = self.kind
        complete = complete_groups if kind == "group" else complete_conferences
        room_argument = click.argument("room", metavar=kind.upper(), shell_complete=complete)

        @rooms.command("invite", help=f"Invite a friend into a {kind}.")
        @room_argument
        @click.argument("friend", shell_complete=complete_contacts)
        @json_option
        @click.pass_context
        def invite(ctx: click.Context, room: str, friend: str, as_json: bool) -> None:
            result = Session.of(ctx).call(self.invite, group=room, friend=friend)
            show(result, as_json, lambda shown: say(f"invited {friend} into {shown['group']['name']}"))

        @rooms.command("list", help=f"List {kind}s, and invitations into {kind}s.")
        @json_option
        @click.pass_context
        def list_(ctx: click.Context, as_json: bool) -> None:
            show(Session.of(ctx).call(self.list), as_json, lambda shown: _groups_table(shown, kind))

        @rooms.command("peers", help=f"List the members of a {kind}{self.about_peers}.")
        @room_argument
        @json_option
        @click.pass_context
        def peers(ctx: click.Context, room: str, as_json: bool) -> None:
            show(Session.of(ctx).call(self.peers, group=room), as_json, _members_table)

        @rooms.command("leave", help=f"Leave a {kind} for good, or decline an invitation.")
        @room_argument
        @json_option
        @click.pass_context
        def leave(ctx: click.Context, room: str, as_json: bool) -> None:
            result = Session.of(ctx).call(self.leave, group=room)
            show(result, as_json, lambda shown: say(f"left {shown['group']['name']}"))


def _joined(entry: api.GroupEntry) -> None:
    name = entry["name"] or entry["id"]
    if entry["state"] == "online":
        say(f"joined {name}")
    else:
        say(f"joining {name}; see: tunfwd {entry['kind']} list")


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
        empty=f"No {kind}s. Create one with: tunfwd {kind} create NAME",
    )
    if any(entry["state"] == "invited" for entry in entries):
        hint(f"Answer an invitation with: tunfwd {kind} join NAME, or: tunfwd {kind} leave NAME")


def _members_table(result: api.MembersResult) -> None:
    entry, own = result["group"], result.get("self")
    ours: list[list[str | None]] = []
    if own is not None and result["peers"]:
        place = own["address"] or own["address6"]
        note = ", ".join(filter(None, ["this machine", own.get("role")]))
        ours.append([place, own["name"], "-", own["public_key"], note])
    show_table(
        ("IP", "NAME", "LINK", "PUBLIC KEY", "NOTE"),
        [
            [
                member["address"],
                member["name"],
                member["link"] if member["reachable"] else "not reachable",
                member["public_key"],
                member["advice"],
            ]
            for member in result["peers"]
        ]
        + ours,
        empty=f"Nobody else is there. Invite a friend: tunfwd {entry['kind']} invite {entry['name']} NAME",
    )


_Shared("group", api.GROUP_INVITE, api.GROUP_LIST, api.GROUP_PEERS, api.GROUP_LEAVE).add_to(group)
_Shared(
    "conference",
    api.CONFERENCE_INVITE,
    api.CONFERENCE_LIST,
    api.CONFERENCE_PEERS,
    api.CONFERENCE_LEAVE,
    about_peers=", and how those who are not friends could be reached",
).add_to(conference)
