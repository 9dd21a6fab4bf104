"""IP packets <-> TCP connections and UDP datagrams, without I/O."""

from tunfwd.netstack.connection import Connection
from tunfwd.netstack.stack import Stack
from tunfwd.netstack.statistics import Statistics
from tunfwd.netstack.types import Endpoint, Exhausted, Frame, HostState

__all__ = ["Connection", "Endpoint", "Exhausted", "Frame", "HostState", "Misuse", "Stack", "Statistics"]
