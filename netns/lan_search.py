"""A LAN search as that of Teeworlds 0.6 and DDNet: asks everybody, and lists who answers.

python -m netns.lan_search [ADDRESS] [--wait SECONDS]
"""

import json
import socket
import time

import click

PORT = 8303
CONNLESS = b"\xff" * 6  # what is sent without a connection
QUESTION = CONNLESS + b"\xff\xff\xff\xffgie3" + b"\x2a"  # the last byte is a token, which comes back as text
ANSWER = CONNLESS + b"\xff\xff\xff\xffinf3"


def search(address: str, wait: float) -> list[dict[str, object]]:
    """Return the servers that answer within `wait` seconds, in the order of their answers."""
    found: dict[str, dict[str, object]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        asking.sendto(QUESTION, (address, PORT))
        asked = time.monotonic()
        while (left := asked + wait - time.monotonic()) > 0:
            asking.settimeout(left)
            try:
                answer, (server, port) = asking.recvfrom(2000)
            except TimeoutError:
                break
            if answer.startswith(ANSWER):
                fields = [
                    field.decode(errors="replace") for field in answer.removeprefix(ANSWER).split(b"\0")
                ]
                # token, version, name, map, type, flags, players, most players, clients, most clients
                found.setdefault(
                    f"{server}:{port}",
                    {
                        "server": f"{server}:{port}",
                        "name": fields[2],
                        "map": fields[3],
                        "players": f"{fields[6]}/{fields[7]}",
                        "ping": round(1000 * (time.monotonic() - asked)),
                    },
                )
    return list(found.values())


@click.command()
@click.argument("address", default="10.77.255.255")
@click.option("--wait", default=1.0, show_default=True)
def main(address: str, wait: float) -> None:
    """Print the servers found, as JSON."""
    print(json.dumps(search(address, wait)))


if __name__ == "__main__":
    main()
