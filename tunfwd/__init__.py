"""Port forwarding over Tox: a friend's ports, or a group's, at virtual addresses of your own."""

__version__ = "0.1.0"
