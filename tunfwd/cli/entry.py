"""Where the `tunfwd` script begins: what prompts and loops ask is answered here, all else by main.py.

To load click and to parse a command line with it takes longer than to ask the daemon. A question that is
asked many times a minute is put into `AT_ONCE`, without other options than --json; whatever else is on its
command line, click reads.
"""

import os
import sys
from contextlib import closing
from importlib import import_module
from typing import Final, NoReturn

from tunfwd.cli import outcome

AT_ONCE: Final = {"status": "tunfwd.cli.glance:status"}  # name -> module:function of a Session and `as_json`


def main() -> None:
    """Run the command line of this process, as the console script, and exit."""
    outcome.prepare()
    arguments = sys.argv[1:]
    if arguments and arguments[0] in AT_ONCE and arguments[1:] in ([], ["--json"]):
        _leave(outcome.told(lambda: _at_once(*arguments)))
    from tunfwd.cli.main import run  # noqa: PLC0415  and with it click

    sys.exit(run())


def _leave(code: int) -> NoReturn:
    """Exit without the tidying up that the kernel does in less time, all being written."""
    sys.stderr.flush()
    os._exit(code)


def _at_once(name: str, *options: str) -> None:
    from tunfwd.cli.session import Session  # noqa: PLC0415  and with it the way to the daemon

    module, function = AT_ONCE[name].split(":")
    with closing(Session(None, None)) as session:
        getattr(import_module(module), function)(session, bool(options))
