"""Questions to a running emulator: one JSON datagram each way over a Unix socket that only root can open.

A request is {"change": {HOST: {FIELD: VALUE}}}, with the fields of link.Conditions, or {"quit": true}, or {}.
The answer tells the conditions and counters of every host's direction, or {"error": TEXT}.
"""

import json
import socket
from pathlib import Path
from typing import Any

ANSWER_TIME = 5.0  # s
MAX_MESSAGE = 256 << 10  # bytes


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Raises OSError if no emulator is there or answers, ValueError if it does not like the request."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        own.bind("")  # an abstract address, where the answer goes
        own.settimeout(ANSWER_TIME)
        own.sendto(json.dumps(request).encode(), str(path))
        answer: dict[str, Any] = json.loads(own.recv(MAX_MESSAGE))
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer
