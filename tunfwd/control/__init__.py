"""The control socket: how a command reaches the daemon."""
