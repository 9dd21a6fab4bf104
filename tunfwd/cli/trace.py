"""`tunfwd trace`: what a contact's link does, packet by packet, for qvis to draw."""

import os
import re
import signal
import sys
import time
from contextlib import ExitStack
from datetime import datetime
from typing import BinaryIO, Final

import click

from tunfwd.cli.arguments import complete_contacts
from tunfwd.cli.output import note
from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError
from tunfwd.control import api

WAIT: Final = 1.0  # s that one question waits for an answer
MEGABYTE: Final = 1 << 20
QVIS: Final = "https://qvis.quictools.info"
WHY: Final = {  # a trace ends before it is told to
    "size_limit": "the trace is as large as it may be (--limit)",
    "contact_removed": "the contact was removed",
}


@click.command()
@click.argument("contact", metavar="NAME", shell_complete=complete_contacts)
@click.option("--seconds", type=click.FloatRange(min=0.1), metavar="N", help="End after that time.")
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    help="Where to write it; - is the standard output. [default: NAME-TIME.sqlog]",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 1 << 20),
    default=256,
    show_default=True,
    metavar="MIB",
    help="The most that is written.",
)
@click.pass_context
def trace(ctx: click.Context, contact: str, seconds: float | None, output: str | None, limit: int) -> None:
    """Write down what the link to a contact does, until you end it.

    Packets sent, received and lost, round trips and the window go into a file of qlog's format, which qvis
    draws. It has no payload and no keys. A file that exists is not written over. docs/trace.md says how to
    read it.
    """
    session = Session.of(ctx)
    began = session.call(api.TRACE_BEGIN, contact=contact, limit=limit * MEGABYTE)
    with ExitStack() as stack:
        try:
            file, name = _open(stack, output, began["contact"])
        except UserError:
            session.call(api.TRACE_NEXT, trace=began["trace"], end="stopped")
            raise
        note(f"Tracing {began['contact']} into {name}" + ("; Ctrl-C ends it." if seconds is None else "."))
        last = _take_all(session, file, began, seconds)
    _tell(last, name)


def _open(stack: ExitStack, output: str | None, contact: str) -> tuple[BinaryIO, str]:
    """Return where to write, and what that is called. Raises UserError."""
    if output == "-":
        return sys.stdout.buffer, "standard output"
    name = output or f"{_harmless(contact)}-{datetime.now():%Y%m%d-%H%M%S}.sqlog"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return stack.enter_context(open(os.open(name, flags, 0o600), "wb")), name
    except FileExistsError:
        raise UserError("failed", f"{name} is there already; it is not written over") from None
    except OSError as failure:
        raise UserError("failed", f"{name}: {failure.strerror}") from None


def _take_all(
    session: Session, file: BinaryIO, result: api.TraceResult, seconds: float | None
) -> api.TraceResult:
    """Write what comes, until somebody or something ends it; return the last of it."""
    id_, until = result["trace"], None if seconds is None else time.monotonic() + seconds
    interrupted: list[int] = []  # not raised: what is under way then would be missing
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda which, _: interrupted.append(which))
    while True:
        _write(file, result)
        if result["over"] is not None:
            return result
        left = WAIT if until is None else until - time.monotonic()
        if interrupted or left <= 0:
            end = "stopped" if interrupted else "time"
            result = session.call(api.TRACE_NEXT, trace=id_, end=end)
        else:
            result = session.call(api.TRACE_NEXT, trace=id_, wait=min(left, WAIT))


def _write(file: BinaryIO, result: api.TraceResult) -> None:
    try:
        file.write(result["records"].encode())
        file.flush()
    except OSError as failure:
        raise UserError("failed", f"the trace cannot be written: {failure.strerror}") from None


def _tell(last: api.TraceResult, name: str) -> None:
    if (why := WHY.get(last["over"] or "")) is not None:
        note(f"Ended: {why}.")
    sent, received, lost = last["packets_sent"], last["packets_received"], last["packets_lost"]
    note(f"{sent} packets of the link sent, {lost} of them lost; {received} received.")
    if last["dropped"]:
        note(f"{last['dropped']} records are missing, as they were not taken in time.")
    if not sent + received:
        note("The link was quiet, or the contact has none: tunfwd status says how it is reached.")
    elif name != "standard output":
        note(f"To look at it, open {QVIS} and load {name}; docs/trace.md says how to read it.")


def _harmless(contact: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", contact).lstrip(".-")[:60] or "contact"
