"""Ordinary sockets on the serving side."""
