"""Asks everybody one question by UDP, as a game's LAN search does, and prints who answers with what, as JSON.

python -m netns.lan_ask QUESTION ADDRESS PORT [--hear PORT] [--wait SECONDS]
python -m netns.lan_ask QUESTION ADDRESS PORT --tcp [--wait SECONDS]    # one host, where games have no search
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


def ask_one(question: bytes, address: str, port: int, wait: float) -> list[tuple[str, str]]:
    """Return the address, and what it answers by TCP within `wait` seconds; nothing where it does not."""
    try:
        with socket.create_connection((address, port), wait) as asking:
            asking.sendall(question)
            answer = asking.recv(4096)
    except OSError:
        return []
    return [(address, answer.hex())]


@click.command()
@click.argument("question", type=bytes.fromhex)
@click.argument("address")
@click.argument("port", type=int)
@click.option("--hear", type=int)
@click.option("--tcp", is_flag=True)
@click.option("--wait", default=1.0, show_default=True)
def main(question: bytes, address: str, port: int, hear: int | None, tcp: bool, wait: float) -> None:
    """Print the answers as JSON."""
    answers = ask_one(question, address, port, wait) if tcp else ask(question, address, port, hear, wait)
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
