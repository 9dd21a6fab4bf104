"""Tox itself: the binding to libtoxcore and the trio client that drives it."""
