"""Bytes <-> values.

The packets of "Port forwarding in tox", Hello and its extensions, and Internet headers.
"""
