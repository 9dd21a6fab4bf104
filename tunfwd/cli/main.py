"""The `tunfwd` command, where entry.py does not answer by itself: finds the subcommand, and runs it.

Subcommands live in modules of their own that are imported when they are called: most runs ask the daemon one
question, and are to be as quick as the question.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import click
from click.shell_completion import CompletionItem

from tunfwd import __version__
from tunfwd.cli import outcome

COMMANDS: Final = {  # name -> module:attribute, in the order of `tunfwd --help`
    "daemon": "tunfwd.cli.daemon:daemon",
    "stop": "tunfwd.cli.daemon:stop",
    "id": "tunfwd.cli.overview:identity",
    "share": "tunfwd.cli.share:share",
    "join": "tunfwd.cli.share:join",
    "invites": "tunfwd.cli.share:invites",
    "status": "tunfwd.cli.overview:status",
    "friend": "tunfwd.cli.friends:friend",
    "rename": "tunfwd.cli.friends:rename_any",
    "group": "tunfwd.cli.groups:group",
    "conference": "tunfwd.cli.groups:conference",
    "game": "tunfwd.cli.games:game",
    "offer": "tunfwd.cli.offers:offer",
    "offers": "tunfwd.cli.offers:offers",
    "accept": "tunfwd.cli.offers:accept",
    "deny": "tunfwd.cli.offers:deny",
    "leave": "tunfwd.cli.offers:leave",
    "request": "tunfwd.cli.offers:request",
    "allow": "tunfwd.cli.offers:allow",
    "ports": "tunfwd.cli.offers:ports",
    "connections": "tunfwd.cli.connections:connections",
    "kill": "tunfwd.cli.offers:kill",
    "run": "tunfwd.cli.run:run",
    "pause": "tunfwd.cli.changes:pause",
    "resume": "tunfwd.cli.changes:resume",
    "change": "tunfwd.cli.changes:change",
    "nodes": "tunfwd.cli.nodes:nodes",
    "dns": "tunfwd.cli.dns:dns",
    "watch": "tunfwd.cli.watch:watch",
    "web": "tunfwd.cli.web:web",
    "events": "tunfwd.cli.events:events",
    "notify": "tunfwd.cli.notify:notify",
    "metrics": "tunfwd.cli.metrics:metrics",
    "trace": "tunfwd.cli.trace:trace",
    "ping": "tunfwd.cli.overview:ping",
    "service": "tunfwd.cli.service:service",
    "reload": "tunfwd.cli.service:reload",
    "backup": "tunfwd.cli.backup:backup",
    "restore": "tunfwd.cli.backup:restore",
    "doctor": "tunfwd.cli.doctor:doctor",
    "version": "tunfwd.cli.overview:version",
    "help": "tunfwd.cli.main:help_",
}
SUMMARIES: Final = {  # what each does, as its own help begins: to show it takes no module of theirs
    "daemon": "Run the daemon, in the foreground.",
    "stop": "End the daemon, in order: contacts are told.",
    "id": "Show our Tox address, for others to add, and more.",
    "share": "Share services, such as 8080/tcp, by a ticket.",
    "join": "Join by a ticket that somebody shares.",
    "invites": "List the tickets that we have shared, and who has joined.",
    "status": "Show every contact: address, link, traffic.",
    "friend": "Befriend people, to reach them and be reached.",
    "rename": "Call a friend, or a group, by another name here.",
    "group": "Groups: each member is a contact with an address of its own.",
    "conference": "Conferences: those members who are friends can be reached.",
    "game": "Play on a LAN that is a group.",
    "offer": "Offer services of this machine, such as 8080/tcp.",
    "offers": "List offers, ours and theirs.",
    "accept": "Accept an offer.",
    "deny": "Decline an offer or request; they are told.",
    "leave": "End our use of an offer, which stays.",
    "request": "Ask a contact for ports of its, such as 22/tcp.",
    "allow": "Allow a request: let a contact in.",
    "ports": "List accepted offers, where each is reached, its traffic.",
    "connections": "List connections: from whom, to what, since when.",
    "kill": "End an offer, accepted or not, and its connections.",
    "run": "Run a program that reaches contacts, without root.",
    "pause": "Refuse connections to an offer for now.",
    "resume": "Take connections to a paused offer again.",
    "change": "Change an offer: its name, target, port.",
    "nodes": "List the nodes by which the network is joined.",
    "dns": "Have the system's resolver know the names of contacts.",
    "watch": "Show contacts, paths and rates live; take decisions by a key.",
    "web": "Show contacts, ports, tickets and rates in a browser.",
    "events": "List what has happened, or follow what happens.",
    "notify": "Show requests, offers and invitations on the desktop.",
    "metrics": "Print the daemon's figures in the text format of Prometheus.",
    "trace": "Write down what the link to a contact does, until you end it.",
    "ping": "Measure the round trip to a contact over Tox.",
    "service": "Have systemd run the daemon, from boot on.",
    "reload": "Have the daemon read its configuration again.",
    "backup": "Write identity and state into one file.",
    "restore": "Bring back the identity and state of a backup.",
    "doctor": "Look for what is wrong here or in the daemon.",
    "version": "Show the versions of this command and of the daemon.",
    "help": "Show how a command is used, as its --help does.",
}
MEANT: Final = {  # what people type, and what does it here
    **dict.fromkeys(("start", "up", "serve", "server"), "daemon"),
    **dict.fromkeys(("down", "quit", "exit", "shutdown", "restart"), "stop"),
    **dict.fromkeys(("peers", "contacts", "ls", "list", "show", "info", "members"), "status"),
    **dict.fromkeys(("add", "friends", "contact", "peer"), "friend"),
    **dict.fromkeys(("rooms", "groups", "room"), "group"),
    **dict.fromkeys(("expose", "publish", "export", "forward", "open"), "offer"),
    **dict.fromkeys(("connect", "take", "use"), "accept"),
    **dict.fromkeys(("reject", "decline", "refuse"), "deny"),
    **dict.fromkeys(("close", "remove", "delete", "rm", "withdraw", "end", "unoffer"), "kill"),
    **dict.fromkeys(("mappings", "forwards"), "ports"),
    **dict.fromkeys(("log", "logs", "history"), "events"),
    **dict.fromkeys(("invite", "ticket", "tickets"), "invites"),
    **dict.fromkeys(("ask", "get"), "request"),
    **dict.fromkeys(("gui", "ui", "page", "dashboard", "browser"), "web"),
    **dict.fromkeys(("address", "whoami", "me", "qr"), "id"),
    **dict.fromkeys(("check", "diagnose", "test", "debug"), "doctor"),
}


def _summary(name: str, limit: int = 45) -> str:
    """Return what a command does, in so many characters."""
    return click.Command(name, help=SUMMARIES[name]).get_short_help_str(limit)


class _Commands(click.Group):
    """A group that imports its commands when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        room = formatter.width - 6 - max(map(len, COMMANDS))
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(name, room)) for name in COMMANDS])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [name for name in COMMANDS if name.startswith(incomplete)]
        found = [CompletionItem(name, help=_summary(name)) for name in names]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from difflib import get_close_matches  # noqa: PLC0415  only a mistake pays for it

            near = [MEANT[args[0]]] if args[0] in MEANT else get_close_matches(args[0], COMMANDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"there is no command {args[0]!r}{hint}", ctx) from None


@click.group(
    cls=_Commands,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every listing takes --json. Completion for bash: "
    'eval "$(_TUNFWD_COMPLETE=bash_source tunfwd)"; zsh and fish likewise.',
)
@click.version_option(__version__, message="tunfwd %(version)s")
@click.option(
    "--socket", metavar="PATH", help="The daemon's control socket. [default: $TUNFWD_SOCKET, config]"
)
@click.option(
    "--config", metavar="PATH", help="The configuration file. [default: $TUNFWD_CONFIG, or the user's]"
)
def root(socket: str | None, config: str | None) -> None:
    """Reach a Tox friend's or group's TCP and UDP services at virtual addresses, with any program.

    `tunfwd daemon` does the work; all other commands talk to it.
    """


@click.command("help")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help_(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show how a command is used, as its --help does."""
    found: click.Command = root
    context = ctx.find_root()
    for word in words:
        if not isinstance(found, click.Group):
            raise click.UsageError(f"{context.command_path} has no commands of its own", context)
        name, command, _ = found.resolve_command(context, [word])
        assert command is not None
        found, context = command, click.Context(command, info_name=name, parent=context)
    print(found.get_help(context))


def main() -> None:
    """Run this process's command line, and exit: for scripts installed before there was entry.py."""
    outcome.prepare()
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line, this process's if none is given, and return its exit code."""
    return outcome.told(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = root.main(arguments, prog_name="tunfwd", standalone_mode=False)
    except click.UsageError as wrong:
        command = wrong.ctx.command_path if wrong.ctx else "tunfwd"
        message = wrong.format_message().rstrip(".")
        return outcome.fail(f"{message[:1].lower()}{message[1:]} (see: {command} --help)", wrong.exit_code)
    except click.ClickException as wrong:
        return outcome.fail(wrong.format_message(), wrong.exit_code)
    except click.Abort:
        raise KeyboardInterrupt from None
    return code if isinstance(code, int) else 0
