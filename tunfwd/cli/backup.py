"""`tunfwd backup`, `tunfwd restore`: identity and state as one file, and back. No daemon is asked."""

import os
import pwd
import time
from pathlib import Path

import click

from tunfwd.cli.arguments import json_option
from tunfwd.cli.output import note, say, show_json
from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError

PASSPHRASE_HELP = "The file whose first line is the passphrase of the backup."


def _passphrase(file: str | None, ask: bool, *, confirm: bool) -> bytes | None:
    if file is not None:
        from tunfwd.tox.identity import IdentityError, read_passphrase  # noqa: PLC0415

        try:
            return read_passphrase(Path(file))
        except IdentityError as wrong:
            raise UserError("failed", str(wrong)) from None
    if ask:
        text: str = click.prompt(
            "Passphrase of the backup", hide_input=True, confirmation_prompt=confirm, err=True
        )
        return text.encode()
    return None


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--passphrase-file", metavar="PATH", help=PASSPHRASE_HELP)
@click.option("--encrypt", is_flag=True, help="Ask for a passphrase.")
@json_option
@click.pass_context
def backup(ctx: click.Context, file: str, passphrase_file: str | None, encrypt: bool, as_json: bool) -> None:
    """Write identity and state into one file.

    Only its owner can read it. Whoever has it is you, unless it is encrypted with a passphrase. The daemon
    may run. The configuration is not in it.
    """
    from tunfwd.config.document import load  # noqa: PLC0415
    from tunfwd.daemon.storage.backup import make  # noqa: PLC0415
    from tunfwd.files import write_whole  # noqa: PLC0415

    state = load(Session.of(ctx).config).state
    data = make(state, passphrase := _passphrase(passphrase_file, encrypt, confirm=True))
    try:
        write_whole(Path(file).absolute(), data)
    except OSError as failure:
        raise UserError("failed", f"{file} cannot be written: {failure.strerror}") from None
    if as_json:
        encrypted = passphrase is not None
        show_json({"backup": {"file": file, "size": len(data), "encrypted": encrypted, "state": str(state)}})
        return
    say(f"{state} is backed up in {file}")
    if passphrase is None:
        note("It is not encrypted: whoever can read it can be you.")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--passphrase-file", metavar="PATH", help=PASSPHRASE_HELP)
@click.option("--force", is_flag=True, help="Put it in the place of what is there, which is kept beside it.")
@json_option
@click.pass_context
def restore(ctx: click.Context, file: str, passphrase_file: str | None, force: bool, as_json: bool) -> None:
    """Bring back the identity and state of a backup.

    No daemon may run meanwhile.
    One identity belongs into one place: two daemons with the same one disturb each other.
    """
    from tunfwd.config.document import load  # noqa: PLC0415
    from tunfwd.daemon.storage import backup as backups  # noqa: PLC0415
    from tunfwd.files import read_whole  # noqa: PLC0415

    config = load(Session.of(ctx).config)
    try:
        data = read_whole(Path(file), backups.MAX_SIZE)
    except OSError as failure:
        raise UserError("failed", f"{file} cannot be read: {failure.strerror}") from None
    ask = backups.is_encrypted(data) and os.isatty(0)
    found = backups.read(data, _passphrase(passphrase_file, ask, confirm=False), file)
    kept = backups.restore(found, config.state, _owner(config.user), force=force)
    if as_json:
        before = None if kept is None else str(kept)
        show_json(
            {
                "restored": {
                    "state": str(config.state),
                    "made": found.made,
                    "version": found.version,
                    "kept": before,
                }
            }
        )
        return
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.made))
    say(f"{config.state} is as it was at {made}")
    if kept is not None:
        note(f"What was there is kept in {kept}")


def _owner(user: str | None) -> tuple[int, int] | None:
    """Return whose a new state directory is to be: root's daemon becomes a user of its own."""
    from tunfwd.tun.privileges import USER  # noqa: PLC0415

    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(user or USER)
    except KeyError:
        return None  # the daemon says so when it starts
    return entry.pw_uid, entry.pw_gid
