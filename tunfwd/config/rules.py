"""[[rule]] and [[expose]] as the configuration writes them: who may do what without asking a person.

Rules decide about offers made to us (forwarding/policy.py holds and applies them). Exposures say what a port
leads to that somebody asks for; asking is not having: a rule or a person decides. Read by document.py.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal

from tunfwd.common import notation
from tunfwd.common.names import KEY_PREFIX, composed
from tunfwd.common.notation import KEY_DIGITS, Port, TargetText, read_key, read_port
from tunfwd.common.schema import Mismatch, Parse
from tunfwd.forwarding.policy import KEY_BEGINNING, Action, Party, Rule, means
from tunfwd.wire.packets import Direction, Protocol

MAX_PATTERN: Final = 256  # characters
_HEX: Final = re.compile(r"[0-9a-fA-F]+")


def _read_pattern(text: str) -> str:
    """Which contacts: a name that a person here gave, a shell pattern of such names, or a public key."""
    text = composed(text)
    if not 0 < len(text) <= MAX_PATTERN:
        raise ValueError(f"must be 1 to {MAX_PATTERN} characters long")
    if len(text) == KEY_DIGITS:
        try:
            return read_key(text).hex().upper()
        except ValueError:
            pass
    return text


def _read_ports(written: object) -> tuple[range, ...]:
    """8080, "8000-9000", or a list of these."""
    if isinstance(written, list):
        return tuple(ports for item in written for ports in _read_ports(item))
    match written:
        case bool():
            pass
        case int():
            return (range(read_port(written), written + 1),)
        case str():
            low, _, high = written.partition("-")
            ports = range(read_port(low.strip()), read_port((high or low).strip()) + 1)
            if not ports:
                raise ValueError(f"{written!r}: the first port is above the last")
            return (ports,)
    raise ValueError('must be a port, a range such as "8000-9000", or a list of these')


Contacts = Annotated[str, Parse(str, _read_pattern)]


@dataclass(frozen=True, slots=True)
class RuleTable:
    """One [[rule]]."""

    contact: Contacts
    action: Literal["accept", "deny", "ask"]
    protocol: Literal["tcp", "udp", "*"] = "*"
    ports: Annotated[tuple[range, ...] | None, Parse(object, _read_ports)] = None
    direction: Literal["server", "connection", "*"] = "*"
    target: TargetText | None = None  # what an accepted connection offer leads to, instead of [[expose]]

    def __post_init__(self) -> None:
        if self.target and (self.direction != "connection" or self.action != "accept"):
            raise Mismatch(("target",), 'goes with direction = "connection" and action = "accept" only')

    @property
    def rule(self) -> Rule:
        """The rule as forwarding applies it."""
        return Rule(
            action=Action(self.action),
            contact=self.contact,
            protocol=None if self.protocol == "*" else Protocol[self.protocol.upper()],
            ports=self.ports,
            direction=None if self.direction == "*" else Direction[self.direction.upper()],
            target=None if self.target is None else str(self.target),
        )


@dataclass(frozen=True, slots=True)
class Expose:
    """One [[expose]]: a service of ours that contacts may ask for."""

    protocol: notation.Protocol
    port: Port
    target: TargetText | None = None  # None: this machine, at the same port
    contact: Contacts = "*"


def exposure(exposed: Iterable[Expose], party: Party, protocol: Protocol, port: int) -> Expose | None:
    """Return the entry for a port that a contact asks for; None: nothing is exposed there."""
    for entry in exposed:
        if (entry.protocol, entry.port) != (protocol.name.lower(), port):
            continue
        if means(entry.contact, party):
            return entry
    return None


def mistaken(patterns: Iterable[str], label: str, party: Party) -> list[str]:
    """Return the patterns that fit what a contact, or its group's founder, chose, and do not mean it."""
    return [p for p in dict.fromkeys(patterns) if fnmatchcase(label, p) and not means(p, party)]


def unusable(pattern: str) -> str | None:
    """Say why a pattern means nobody, where that can be told from it alone."""
    if pattern.startswith("group:"):
        group, _, member = pattern.partition("/")
        if member.strip("*") and not (len(member) == KEY_DIGITS and _HEX.fullmatch(member)):
            return f'members choose their own names: write their public key, or "{group}/*"'
        if not member and not group.endswith("*"):
            return f'for its members, write "{group}/*"'
    elif _HEX.fullmatch(digits := pattern.rstrip("*")) and KEY_PREFIX <= len(digits) < KEY_BEGINNING:
        return f"for a key, write all of it, or at least {KEY_BEGINNING} digits and *"
    return None
