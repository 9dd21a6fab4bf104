"""Who may do what without being asked: rules, first match wins; what no rule matches is asked.

Fed by the daemon with rules from the configuration; asked by it when a contact offers something.
"""

from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from tunfwd.wire.packets import Direction, Protocol


class Action(Enum):
    """What becomes of an offer."""

    ACCEPT = "accept"
    DENY = "deny"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; what is None, or "*" for the contact, matches all."""

    action: Action
    contact: str = "*"
    """A contact's name or public key (upper-case hex), or a shell pattern of them: `group:lan-party/*`."""
    protocol: Protocol | None = None
    ports: tuple[range, ...] | None = None
    direction: Direction | None = None
    target: str | None = None
    """For a connection offer: the HOST:PORT that it leads to, instead of the same port here."""

    def matches(self, names: tuple[str, ...], protocol: Protocol, port: int, direction: Direction) -> bool:
        """Whether the rule speaks of this offer by a contact known by `names`."""
        return (
            any(fnmatchcase(name, self.contact) for name in names)
            and self.protocol in (None, protocol)
            and (self.ports is None or any(port in ports for ports in self.ports))
            and self.direction in (None, direction)
        )


ASK = Rule(Action.ASK)


def decide(
    rules: tuple[Rule, ...], names: tuple[str, ...], protocol: Protocol, port: int, direction: Direction
) -> Rule:
    """Return the first rule that matches, or the one that asks."""
    for rule in rules:
        if rule.matches(names, protocol, port, direction):
            return rule
    return ASK
