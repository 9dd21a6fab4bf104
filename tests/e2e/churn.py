"""Connections that begin and end without end, in four ways; run in a host's namespace.

    churn.py serve PORT
    churn.py connect ADDRESS PORT COUNT

The client's first byte says how the connection is to end. `connect` prints how many there were of each.
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


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        print(json.dumps(asyncio.run(connect_all(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))))
