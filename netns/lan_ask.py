"""Asks everybody one question by UDP, as a game's LAN search does, and prints who answers with what, as JSON.

python -m netns.lan_ask QUESTION ADDRESS PORT [--hear PORT] [--wait SECONDS]
"""

import json
import socket
import struct
import time
from contextlib import ExitStack

import click


def ask(question: bytes, address: str, port: int, hear: int | None, wait: float) -> list[tuple[str, str]]:
    """Return the address of each who answers within `wait` seconds, and the answer in hexadecimal.

    `hear`: where the answers go to all who are in the multicast group that is asked.
    """
    found: dict[str, str] = {}
    with ExitStack() as stack:
        asking = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        hearing = asking
        if hear is not None:
            hearing = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            hearing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            hearing.bind(("0.0.0.0", hear))
            everywhere = struct.pack("=4sI", socket.inet_aton(address), socket.INADDR_ANY)
            hearing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, everywhere)
        asking.sendto(question, (address, port))
        deadline = time.monotonic() + wait
        while (left := deadline - time.monotonic()) > 0:
            hearing.settimeout(left)
            try:
                answer, (source, _) = hearing.recvfrom(4096)
            except TimeoutError:
                break
            found.setdefault(source, answer.hex())
    return list(found.items())


@click.command()
@click.argument("question", type=bytes.fromhex)
@click.argument("address")
@click.argument("port", type=int)
@click.option("--hear", type=int)
@click.option("--wait", default=1.0, show_default=True)
def main(question: bytes, address: str, port: int, hear: int | None, wait: float) -> None:
    """Print the answers as JSON."""
    print(json.dumps(ask(question, address, port, hear, wait)))


if __name__ == "__main__":
    main()
