"""Tickets as people hand them in: what is wrong with one, in words. Used by api.py and the command line."""

from typing import Annotated, Final

from tunfwd.common.errors import Malformed
from tunfwd.common.schema import Parse
from tunfwd.wire.ticket import Ticket, decode

_AGAIN: Final = "copy it again, from tunfwd: to its end"
_REASONS: Final = {
    "scheme": "this is no ticket: one begins with tunfwd:",
    "text": f"the ticket is cut short or has a wrong character; {_AGAIN}",
    "length": f"the ticket is cut short or too long; {_AGAIN}",
    "checksum": f"the ticket is cut short or has a wrong character: its checksum does not fit; {_AGAIN}",
    "version": "the ticket is from a newer tunfwd; upgrade this one",
    "field": "the ticket is from a newer tunfwd; upgrade this one",
}
_ELSE: Final = "the ticket makes no sense: whatever made it was no tunfwd"


def read_ticket(text: str) -> Ticket:
    """Read a ticket. Raises ValueError with a reason for people."""
    try:
        return decode(text)
    except Malformed as wrong:
        raise ValueError(_REASONS.get(wrong.kind, _ELSE)) from None


TicketText = Annotated[Ticket, Parse(str, read_ticket)]
