"""Bytes <-> values: the packets of "Port forwarding in tox", and Internet headers."""
