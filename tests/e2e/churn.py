"""Connections that begin and end without end, in four ways, and questions by UDP; run in a host's namespace.

    churn.py serve PORT
    churn.py connect ADDRESS PORT COUNT
    churn.py ask ADDRESS PORT COUNT

The client's first byte says how the connection is to end. `connect` prints how many there were of each, `ask`
how many questions, each from a port of its own, were answered without being asked again.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from collections import Counter
from contextlib import suppress

AT_ONCE = 50
TRIES = 3  # of a question without an answer
ORDERLY, WITH_THE_ANSWER, UNREAD, RESET = "owur"
ANSWER = bytes(4000)
LONG_ANSWER = bytes(100_000)


async def serve(port: int) -> None:
    server = await asyncio.start_server(answer, "0.0.0.0", port, backlog=1024)
    async with server:
        await server.serve_forever()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        how = (await reader.readexactly(1)).decode()
        if how == ORDERLY:
            writer.write(ANSWER)
            await reader.read()
        elif how == WITH_THE_ANSWER:
            writer.write(ANSWER)
        else:
            writer.write(LONG_ANSWER)
            await reader.read()
        writer.close()
        await writer.wait_closed()
    except (OSError, EOFError):
        writer.close()


async def connect(address: str, port: int, how: str) -> None:
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(how.encode())
    match how:
        case "o":
            await reader.readexactly(len(ANSWER))
            writer.write_eof()
            await reader.read()
        case "w":
            await reader.read()
        case "u":
            await reader.readexactly(1)  # the rest has come to the kernel, or comes, when this closes
        case "r":
            await reader.readexactly(1000)
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def connect_all(address: str, port: int, count: int) -> Counter[str]:
    done: Counter[str] = Counter()
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            how = "owur"[number % 4]
            async with asyncio.timeout(30):
                await connect(address, port, how)
            done[how] += 1

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return done


class Asker(asyncio.DatagramProtocol):
    """One question, and its answer."""

    def __init__(self, number: int) -> None:
        self._question = b"question %d" % number
        self.answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        transport.sendto(self._question)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answered.done():
            self.answered.set_result(data == self._question)

    def error_received(self, exc: Exception) -> None:
        if not self.answered.done():
            self.answered.set_result(False)


async def ask_all(address: str, port: int, count: int) -> tuple[int, int]:
    """Return how many questions were answered, and how many times one was asked again."""
    answered = again = 0
    numbers = iter(range(count))
    loop = asyncio.get_running_loop()

    async def work() -> None:
        nonlocal answered, again
        for number in numbers:
            for _ in range(TRIES):
                transport, asker = await loop.create_datagram_endpoint(
                    lambda number=number: Asker(number),  # type: ignore[misc]
                    remote_addr=(address, port),
                )
                try:
                    right = await asyncio.wait_for(asker.answered, 5)
                except TimeoutError:  # as a resolver does: from another port
                    again += 1
                    continue
                finally:
                    transport.close()
                answered += right
                break

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return answered, again


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
    elif sys.argv[1] == "ask":
        print(*asyncio.run(ask_all(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        print(json.dumps(asyncio.run(connect_all(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))))
