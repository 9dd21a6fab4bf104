"""`tunfwd notify`: what waits for a person's word, as notifications of the desktop, with buttons.

A process of the desktop's session and an ordinary user of the control socket: it follows events, over the
daemon's end, and calls what a button stands for. Notifications are those of the Desktop Notifications
Specification 1.2 (org.freedesktop.Notifications, on the session's bus).
"""

import html
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar, cast

import click
import trio
from jeepney import (
    DBusAddress,
    DBusErrorResponse,
    HeaderFields,
    MatchRule,
    MessageType,
    new_method_call,
)
from jeepney.bus_messages import message_bus
from jeepney.io.common import RouterClosed
from jeepney.io.trio import DBusConnection, DBusRouter, Proxy, open_dbus_connection

from tunfwd.cli.arguments import complete_contacts
from tunfwd.cli.notices import (
    ALWAYS,
    PAUSE,
    PRESENCE,
    SETTLING,
    Choice,
    Doorkeeper,
    Notice,
    notice_of,
    subject_of,
)
from tunfwd.cli.output import note
from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError
from tunfwd.common.text import clean
from tunfwd.control import api

T = TypeVar("T")

BUS_VARIABLE: Final = "DBUS_SESSION_BUS_ADDRESS"
NAME: Final = "org.freedesktop.Notifications"
SERVER: Final = DBusAddress("/org/freedesktop/Notifications", NAME, NAME)
PATIENCE: Final = 10.0  # s for each answer on the bus
WAIT: Final = 60.0  # s that one question waits for events
AGAIN: Final = 2.0  # s between two tries to reach a daemon that is gone
MAX_SHOWN: Final = 64  # notifications that may still be answered
BUS_ENDED: Final = (
    *(trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError),
    *(RouterClosed, DBusErrorResponse, OSError),
)
LABELS: Final[dict[Choice, str]] = {"accept": "Accept", "deny": "Deny"}
DONE: Final[dict[Choice, str]] = {"accept": "Accepted", "deny": "Denied"}


class Desktop:
    """The notification server."""

    def __init__(self, router: DBusRouter) -> None:
        self._router = router
        self._markup = self.has_actions = False
        self.owner: str | None = None
        """Its unique name on the bus, as its last answer told."""

    async def open(self) -> None:
        """Learn what it can do. Raises UserError where there is none."""
        (found,) = await self._call("GetCapabilities", None, ())
        capabilities = cast(list[str], found)
        self._markup = "body-markup" in capabilities
        self.has_actions = "actions" in capabilities

    async def show(self, notice: Notice, replaced: int) -> int:
        """Show a notice, in the place of another one or (0) of none; return its number."""
        body = html.escape(notice.body, quote=False) if self._markup else notice.body
        actions = [text for choice in notice.choices for text in (choice, LABELS[choice])]
        fields = (
            "tunfwd",
            replaced,
            "network-transmit-receive",  # Icon Naming Specification
            notice.title,
            body,
            actions if self.has_actions else [],
            {"urgency": ("y", 1), "category": ("s", "network")},
            -1,
        )
        (number,) = await self._call("Notify", "susssasa{sv}i", fields)
        return cast(int, number)

    async def close(self, number: int) -> None:
        """Take a notification away, where it is still there."""
        await self._call("CloseNotification", "u", (number,))

    async def _call(self, method: str, signature: str | None, body: tuple[object, ...]) -> tuple[object, ...]:
        message = new_method_call(SERVER, method, signature, body)
        try:
            with trio.fail_after(PATIENCE):
                reply = await self._router.send_and_get_reply(message)
        except trio.TooSlowError:
            raise UserError("timeout", "what shows notifications on this desktop does not answer") from None
        if reply.header.message_type is MessageType.error:
            reason = reply.header.fields.get(HeaderFields.error_name, "")
            raise UserError("failed", f"nothing shows notifications on this desktop ({reason})")
        self.owner = reply.header.fields.get(HeaderFields.sender)
        return tuple(reply.body)


class Notifier:
    """Notices on their way: from events to the desktop, and from buttons to the daemon."""

    def __init__(
        self,
        desktop: Desktop,
        call: Callable[[api.Method[object, object], dict[str, object]], Awaitable[object]],
        wanted: Callable[[api.EventEntry], bool],
    ) -> None:
        """`call` asks the daemon. Raises UserError, as it does."""
        self._desktop = desktop
        self._call = call
        self._wanted = wanted
        self._doorkeeper = Doorkeeper()
        self._shown: dict[int, Notice] = {}

    async def tell(self, event: api.EventEntry) -> None:
        """Show an event, or take away what it has settled."""
        if event["event"] in SETTLING:
            for number in self._of(subject_of(event)):
                del self._shown[number]
                with suppress(UserError):  # it has gone away already
                    await self._desktop.close(number)
            return
        if not self._wanted(event) or (notice := notice_of(event)) is None:
            return
        if self._doorkeeper.admits(notice, trio.current_time()):
            await self._show(notice)

    async def sum_up(self) -> None:
        """Tell how many were not shown, when it is time."""
        while True:
            await trio.sleep(PAUSE / 3)
            if (notice := self._doorkeeper.sum(trio.current_time())) is not None:
                await self._show(notice)

    async def pressed(self, number: int, action: str) -> None:
        """A button was pressed."""
        notice = self._shown.get(number)
        if notice is None or action not in notice.choices:
            return  # another program's, or what a click beside the buttons is called
        del self._shown[number]
        choice: Choice = "accept" if action == "accept" else "deny"
        try:
            await self._call(*notice.choices[choice])
        except UserError as failure:
            title, body = "That did not work", failure.message
        else:
            title, body = f"{DONE[choice]}: {notice.title}", ""
        await self._put(Notice("answer", "", clean(title, 100), clean(body, 200), {}), number)

    def closed(self, number: int) -> None:
        """A notification is no longer there."""
        self._shown.pop(number, None)

    async def _show(self, notice: Notice) -> None:
        before = self._of(notice.subject)
        for number in before:
            del self._shown[number]
        shown = await self._put(notice, before[-1] if before else 0)
        if shown is not None:
            self._shown[shown] = notice
        while len(self._shown) > MAX_SHOWN:
            del self._shown[next(iter(self._shown))]

    async def _put(self, notice: Notice, replaced: int) -> int | None:
        try:
            return await self._desktop.show(notice, replaced)
        except UserError as failure:  # a desktop that is started anew is there again for the next one
            note(failure.message)
            return None

    def _of(self, subject: str | None) -> list[int]:
        return [number for number, notice in self._shown.items() if notice.subject == subject]


@click.command()
@click.option("--contacts", is_flag=True, help="Tell of every contact that comes or goes, too.")
@click.option(
    "--contact",
    "some",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_contacts,
    help="Tell of this contact's coming and going; may be repeated.",
)
@click.pass_context
def notify(ctx: click.Context, contacts: bool, some: tuple[str, ...]) -> None:
    """Show requests, offers and invitations on the desktop.

    Where the desktop has buttons, friend requests and offers are accepted and denied there. It runs until you
    end it, in your session, and waits for a daemon that is gone. docs/events.md says how to have it started
    when you log in.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a bus that ends is told by an error
    session = Session.of(ctx)
    named = {name.casefold() for name in some}

    def wanted(event: api.EventEntry) -> bool:
        kind = event["event"]
        if kind in PRESENCE:
            return contacts or event.get("contact", "").casefold() in named
        return kind in ALWAYS

    kinds = [*ALWAYS, *SETTLING, *(PRESENCE if contacts or some else ())]
    try:
        trio.run(partial(_notify, session, kinds, wanted))
    except BaseExceptionGroup as group:
        raise _explain(group) from None


def _explain(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what a person is told of what went wrong; a mistake of ours as it is."""
    for kinds in (KeyboardInterrupt, UserError):
        if found := group.subgroup(kinds):
            return _first(found)
    if group.subgroup(BUS_ENDED):
        return UserError("failed", "the bus of this session has ended")
    return group


def _first(found: BaseException) -> BaseException:
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def _notify(session: Session, kinds: Sequence[str], wanted: Callable[[api.EventEntry], bool]) -> None:
    connection = await _session_bus()
    answering = Session(session.socket, session.config)  # while the other waits for events

    ask: Callable[..., object] = answering.call

    async def call(method: api.Method[object, object], params: dict[str, object]) -> object:
        try:
            return await _in_thread(lambda: ask(method, **params))
        finally:
            answering.close()

    try:
        async with connection.router() as router:
            desktop = Desktop(router)
            await desktop.open()
            notifier = Notifier(desktop, call, wanted)
            async with trio.open_nursery() as nursery:
                await nursery.start(_hear, router, desktop, notifier)
                buttons = "" if desktop.has_actions else "; this desktop has no buttons in them"
                note(f"Notifications are on{buttons}.")
                nursery.start_soon(notifier.sum_up)
                nursery.start_soon(_follow, session, kinds, notifier)
    finally:
        await connection.aclose()


async def _session_bus() -> DBusConnection:
    """Connect to the bus of the desktop's session. Raises UserError."""
    usual = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "bus"
    address = os.environ.get(BUS_VARIABLE) or (f"unix:path={usual}" if usual.exists() else "")
    if not address:
        raise UserError(
            "failed",
            f"there is no session bus (${BUS_VARIABLE} is not set): run it in your desktop's session",
        )
    try:
        with trio.fail_after(PATIENCE):
            return await open_dbus_connection(address)
    except (*BUS_ENDED, OSError, EOFError, ValueError, RuntimeError, trio.TooSlowError) as failure:
        where = clean(address, 200)
        raise UserError("failed", f"the session's bus ({where}) does not take us: {failure}") from None


async def _hear(
    router: DBusRouter,
    desktop: Desktop,
    notifier: Notifier,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Take in which buttons are pressed, from whoever owns the name of the notification server."""
    rule = MatchRule(type="signal", sender=NAME, interface=NAME, path=SERVER.object_path)
    await Proxy(message_bus, router).AddMatch(rule)
    heard = MatchRule(type="signal", interface=NAME, path=SERVER.object_path)
    async with router.filter(heard, bufsize=64) as receive:
        task_status.started()
        async for message in receive:
            fields = message.header.fields
            if fields.get(HeaderFields.sender) != desktop.owner:
                continue  # a signal to us alone passes by the rule
            member, signature = fields.get(HeaderFields.member), fields.get(HeaderFields.signature)
            if (member, signature) == ("ActionInvoked", "us"):
                await notifier.pressed(*message.body)
            elif (member, signature) == ("NotificationClosed", "uu"):
                notifier.closed(message.body[0])
        await (
            trio.sleep_forever()
        )  # the router, whose end this is, goes through its filters, and then says why


async def _follow(session: Session, kinds: Sequence[str], notifier: Notifier) -> None:
    """Tell what happens from now on, also after the daemon was started again."""
    after: str | None = None
    while True:
        try:
            asked = {"after": after, "wait": WAIT} if after else {"new": True}
            result = await _in_thread(
                lambda: session.call(api.EVENTS, patience=WAIT + 10, kinds=kinds, **asked)  # noqa: B023  called at once
            )
        except UserError as gone:
            if gone.code in ("denied", "configuration", "usage"):
                raise
            session.close()
            await trio.sleep(AGAIN)
            continue
        after = result["next"]
        for event in result["events"]:
            await notifier.tell(event)


async def _in_thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)
