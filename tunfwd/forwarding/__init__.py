"""Offers, mappings and flows between this machine and its contacts, without I/O."""
