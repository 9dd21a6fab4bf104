"""Reliable streams, ordered control messages and datagrams over lossy packets, without I/O."""
