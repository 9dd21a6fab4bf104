"""The way of a packet: device, netstack, sessions, Tox, services."""
