"""Who may do what without being asked: rules, first match wins; what no rule matches is asked.

Fed by the daemon with rules from the configuration; asked by it when a contact offers something.
"""

import re
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Final

from tunfwd.wire.packets import Direction, Protocol

KEY_BEGINNING: Final = 16  # hex digits; a key that begins as somebody else's cannot be made with so many
_HEX = re.compile(r"[0-9a-fA-F]+")


class Action(Enum):
    """What becomes of an offer."""

    ACCEPT = "accept"
    DENY = "deny"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Party:
    """A contact as rules may speak of it: never by what it calls itself, or a group's founder the group."""

    key: str
    """Its public key, in upper-case hex."""
    name: str | None = None
    """What a person here calls a friend."""
    group: str | None = None
    """Of a member: the chat id of its group, in upper-case hex."""
    group_name: str | None = None
    """What a person here calls that group."""


def means(pattern: str, party: Party) -> bool:
    """Whether a rule's `contact` speaks of this one.

    It is `*` for all; a name or a shell pattern of names, for friends; a public key, or the beginning of one
    with `*` after it, of at least `KEY_BEGINNING` digits; or `group:GROUP/*` or `group:GROUP/KEY`, where
    GROUP is in turn `*`, a name, a pattern of names, or a chat id.
    """
    if not pattern.strip("*"):
        return True
    if not pattern.startswith("group:"):
        return _is_key(pattern, party.key) or (party.name is not None and fnmatchcase(party.name, pattern))
    if party.group is None:
        return False
    group, slash, member = pattern.removeprefix("group:").partition("/")
    of_all = bool(member) and not member.strip("*") if slash else group.endswith("*")
    of_group = (
        not group.strip("*")
        or _is_key(group, party.group)
        or (party.group_name is not None and fnmatchcase(party.group_name, group))
    )
    return of_group and (of_all or member.upper() == party.key)


def _is_key(pattern: str, key: str) -> bool:
    digits, star, _ = pattern.partition("*")
    if not _HEX.fullmatch(digits) or pattern != digits + star:
        return False
    return key.startswith(digits.upper()) if star and len(digits) >= KEY_BEGINNING else key == digits.upper()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; what is None, or "*" for the contact, matches all."""

    action: Action
    contact: str = "*"
    """Which contacts; see `means`."""
    protocol: Protocol | None = None
    ports: tuple[range, ...] | None = None
    direction: Direction | None = None
    target: str | None = None
    """For a connection offer: the HOST:PORT that it leads to, instead of the same port here."""

    def matches(self, party: Party, protocol: Protocol, port: int, direction: Direction) -> bool:
        """Whether the rule speaks of this offer by a contact."""
        return (
            means(self.contact, party)
            and self.protocol in (None, protocol)
            and (self.ports is None or any(port in ports for ports in self.ports))
            and self.direction in (None, direction)
        )


ASK = Rule(Action.ASK)


def decide(
    rules: tuple[Rule, ...], party: Party, protocol: Protocol, port: int, direction: Direction
) -> Rule:
    """Return the first rule that matches, or the one that asks."""
    for rule in rules:
        if rule.matches(party, protocol, port, direction):
            return rule
    return ASK
