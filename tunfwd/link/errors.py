"""Who is at fault."""


class PeerViolation(Exception):
    """The peer broke a rule of LINK.md. Ends the link; never leaves `Link`."""
