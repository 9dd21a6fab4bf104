"""`tunfwd run`: an ordinary program in a network of its own, in which contacts are all there is.

This process sets it up and then becomes the program, so that its number, terminal, signals and exit code are
the program's. One more stays behind: it holds the device, and gives it to the next daemon after a restart.
"""

import os
import select
import shutil
import signal
import socket
import sys
from contextlib import closing
from ipaddress import IPv4Interface, IPv6Interface
from typing import Final, NoReturn

import click

from tunfwd.cli import outcome
from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.tun import namespace
from tunfwd.tun.device import Device, DeviceError, Offload
from tunfwd.tun.network import NetworkError
from tunfwd.tun.privileges import PrivilegeError

DEVICE: Final = "tunfwd0"
AGAIN: Final = 1.0  # s until the daemon is looked for again
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # exit codes, as of env(1)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument(
    "words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] PROGRAM [ARGUMENT]..."
)
@click.pass_context
def run(ctx: click.Context, words: tuple[str, ...]) -> int:
    """Run a program that reaches contacts, without root.

    It has a network of its own, with all contacts, at their addresses and by their names, and nothing else:
    not the internet, nor this machine. Its exit code is this command's.

    It takes user namespaces, and a /dev/net/tun that everybody may open.
    """
    program = shutil.which(words[0])
    if program is None:
        there = os.path.exists(words[0])
        why = "cannot be executed" if there else "is not found"
        return outcome.fail(f"the program {words[0]!r} {why}", NOT_EXECUTABLE if there else NOT_FOUND)
    session = Session.of(ctx)
    session.call(api.VERSION)  # before anything is changed
    try:
        namespace.check()
        namespace.enter()
        device = Device.open(DEVICE)
        place, life = _attach(session, device)
        names = place["resolver"] and namespace.Names(tuple(place["resolver"]), place["domain"])
        own = IPv4Interface(place["address"]), IPv6Interface(place["address6"])
        trouble = namespace.set_up(device.name, *own, names or None)
    except PrivilegeError as error:
        raise UserError("privilege", str(error)) from None
    except (DeviceError, NetworkError) as error:
        raise UserError("failed", str(error)) from None
    if trouble is not None:
        print(f"tunfwd: warning: {trouble}", file=sys.stderr)
    session.close()
    _stay_behind(Session(session.socket, session.config), device, life)
    return _become(program, words)


def _attach(session: Session, device: Device) -> tuple[api.RunResult, socket.socket]:
    """Give the daemon the device; return what the network is, and what is readable once the daemon ends."""
    ours, theirs = socket.socketpair()
    with closing(theirs):
        try:
            place = session.call(
                api.RUN,
                descriptors=(device.fileno(), theirs.fileno()),
                mtu=device.mtu,
                udp_segmentation=Offload.USO4 in device.offload,
            )
        except BaseException:
            ours.close()
            raise
    return place, ours


def _become(program: str, words: tuple[str, ...]) -> int:
    """Be the program from now on; return the exit code where that cannot be."""
    sys.stdout.flush()
    sys.stderr.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(program, words)
    except OSError as error:
        return outcome.fail(f"{program}: {error.strerror}", NOT_EXECUTABLE)


def _stay_behind(session: Session, device: Device, life: socket.socket) -> None:
    """Start what keeps the network up for as long as this process is there; it is no child of ours."""
    program = os.pidfd_open(os.getpid())
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os.close(program)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            _let_go_of_all_but(program, device.fileno(), life.fileno())
            _keep(session, device, life, program)
    finally:
        os._exit(0)


def _let_go_of_all_but(*kept: int) -> None:
    """Hold nothing of the program's: no pipe that somebody reads to the end, no terminal."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _keep(session: Session, device: Device, life: socket.socket, program: int) -> NoReturn:
    """Give the device to each daemon that comes, until the program ends."""
    poll = select.poll()
    poll.register(program, select.POLLIN)
    poll.register(life, select.POLLIN)
    while True:
        if any(descriptor == program for descriptor, _ in poll.poll()):
            sys.exit()
        poll.unregister(life)
        life.close()
        life = _attach_again(session, device, poll)
        poll.register(life, select.POLLIN)


def _attach_again(session: Session, device: Device, program: select.poll) -> socket.socket:
    while True:
        if program.poll(AGAIN * 1000):
            sys.exit()
        try:
            return _attach(session, device)[1]
        except UserError:
            session.close()
