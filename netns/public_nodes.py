"""Public nodes of the Tox network, as plain as toxcore makes them: `python -m netns.public_nodes JSON`.

JSON is a list of {"namespace", "address", "tcp_port"}. Each node is a thread of this process that lives in
its namespace, and joins all others. Their keys go to stdout, one JSON list. The process ends with its
standard input.
"""

import json
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Final

from pyroute2 import netns

from tunfwd.tox.binding.library import choose

UDP_PORT: Final = 33445  # of every node
INTERVAL: Final = 0.02  # s between rounds: how long a packet waits for a node that passes it on
JOIN_AGAIN: Final = 20.0  # s until the others are joined again, as after a cut


@dataclass(slots=True)
class PublicNode:
    """One node, and the thread that it lives in."""

    namespace: str
    address: str
    tcp_port: int
    key: bytes = b""
    made: threading.Event = field(default_factory=threading.Event)

    def run(self, others: list["PublicNode"]) -> None:
        """Be a node for good."""
        netns.setns(self.namespace)
        library = choose("builtin")
        with library.Tox_Options_Ptr() as options:
            options.start_port = options.end_port = UDP_PORT
            options.tcp_port = self.tcp_port
            options.ipv6_enabled = False
            options.local_discovery_enabled = False
            tox = library.Tox_Ptr(options)
        self.key = tox.dht_id
        self.made.set()
        due = 0.0
        while True:
            if time.monotonic() >= due:
                due = time.monotonic() + JOIN_AGAIN
                for other in others:
                    other.made.wait()
                    tox.bootstrap(other.address, UDP_PORT, other.key)
            tox.iterate()
            time.sleep(INTERVAL)


def main() -> None:
    """Start the nodes, tell their keys, and wait for the end of the standard input."""
    nodes = [PublicNode(**settings) for settings in json.loads(sys.argv[1])]
    for node in nodes:
        others = [other for other in nodes if other is not node]
        threading.Thread(target=node.run, args=(others,), daemon=True).start()
    for node in nodes:
        node.made.wait()
    print(json.dumps([node.key.hex().upper() for node in nodes]), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
