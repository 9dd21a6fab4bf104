"""Bytes <-> values: the packets of "Port forwarding in tox", Hello and its extensions, and Internet headers."""
