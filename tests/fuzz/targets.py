"""What is fuzzed: each name with the function that takes an input, and raises for what must not happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from . import decoders, documents, endpoints, world

Target = Callable[[bytes], None]

TARGETS: dict[str, Target] = {
    "packet": decoders.packet,
    "frames": decoders.link_frames,
    "ip": decoders.ip_packet,
    "headers": decoders.headers,
    "ticket": decoders.tickets,
    "text": decoders.text,
    "socks": decoders.socks,
    "request": documents.request,
    "parameters": documents.parameters,
    "config": documents.configuration,
    "settings": documents.settings,
    "state": documents.state,
    "nodes": documents.nodes,
    "link": endpoints.link,
    "plain-session": endpoints.plain_session,
    "linked-session": endpoints.linked_session,
    "member-session": endpoints.member_session,
    "stack": endpoints.stack,
    "daemon": world.whole_daemon,
    "names": world.questions,
}
CORPUS = Path(__file__).with_name("corpus")


def corpus(name: str) -> list[bytes]:
    """The inputs that are kept for a target: one a line, in hexadecimal."""
    file = CORPUS / f"{name}.hex"
    return [bytes.fromhex(line) for line in file.read_text().split()] if file.exists() else []


def keep(name: str, inputs: list[bytes]) -> None:
    """Keep these inputs for a target, and no others."""
    CORPUS.mkdir(exist_ok=True)
    lines = sorted({data.hex() for data in inputs if data}, key=lambda line: (len(line), line))
    (CORPUS / f"{name}.hex").write_text("".join(f"{line}\n" for line in lines))


def mutations(inputs: list[bytes], seed: int) -> Iterator[bytes]:
    """Endless inputs made from these, the same for the same seed."""
    random = Random(seed)
    while True:
        if inputs and random.random() < 0.9:
            data = bytearray(random.choice(inputs))
        else:
            data = bytearray(random.randbytes(random.randrange(500)))
        for _ in range(1 << random.randrange(5)):
            at = random.randrange(len(data) + 1)
            match random.randrange(5):
                case 0:
                    data[at:at] = random.randbytes(random.randrange(1, 16))
                case 1:
                    del data[at : at + random.randrange(1, 16)]
                case 2:
                    data[at : at + 1] = random.randbytes(1)
                case 3 if inputs:
                    other = random.choice(inputs)
                    start = random.randrange(len(other) + 1)
                    data[at:at] = other[start : start + random.randrange(1, 64)]
                case _:
                    data += random.randbytes(random.randrange(1, 64))
        yield bytes(data)
