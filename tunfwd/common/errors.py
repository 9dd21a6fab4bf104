"""What can go wrong for the person at the command line, and the exit code that says so.

Every failure that reaches a person is a UserError: a code for programs and one sentence for people. The
daemon's handlers raise it, the control socket carries it, the command exits with its code.
"""

from typing import Final, Literal

Code = Literal[
    "failed",  # nothing more exact fits
    "usage",  # the request itself is wrong
    "ambiguous",  # a prefix or name fits more than one thing
    "no_daemon",  # nobody answers at the control socket
    "offline",  # the contact, or we ourselves, cannot be reached now
    "not_found",  # no such offer, contact, mapping, ...
    "denied",  # refused by a rule, a peer, or the socket's permissions
    "configuration",  # the configuration or the environment is wrong
    "privilege",  # CAP_NET_ADMIN or /dev/net/tun is missing
    "timeout",  # no answer in the time given
]

EXIT_CODES: Final[dict[Code, int]] = {
    "failed": 1,
    "usage": 2,
    "ambiguous": 2,  # what was typed has to change, as for any other usage error
    "no_daemon": 3,
    "offline": 4,
    "not_found": 5,
    "denied": 6,
    "configuration": 7,
    "privilege": 8,
    "timeout": 124,  # as timeout(1)
}


class UserError(Exception):
    """A failure as a person is told it: `message` is one sentence, with what to do where something can be."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message

    @property
    def exit_code(self) -> int:
        """What a command that fails in this way exits with."""
        return EXIT_CODES[self.code]


class ConfigurationError(UserError):
    """The configuration, the environment or a file the daemon depends on is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__("configuration", message)


class Misuse(Exception):
    """Our own program asked for what the state of a thing does not allow; the message is for people."""


class Malformed(ValueError):
    """Hostile or broken bytes: whoever receives them drops and counts them.

    `kind` is a short stable word for counting.
    """

    def __init__(self, kind: str = "malformed") -> None:
        super().__init__(kind)
        self.kind = kind
