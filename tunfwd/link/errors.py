"""Who is at fault."""

from __future__ import annotations


class PeerViolation(Exception):
    """The peer broke a rule of LINK.md. Ends the link; never leaves `Link`."""
