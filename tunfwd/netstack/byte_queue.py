"""A queue of bytes that neither copies large chunks nor wastes memory on small ones.

Holds what a connection has received and not read, and what it was given and has not sent.
"""

from collections import deque
from typing import Final

from tunfwd.wire.checksum import Buffer

_SMALL: Final = 2048  # bytes; below this a chunk costs less to copy than to keep as an object
_JOINED: Final = 65536  # bytes; how far small chunks are joined


class ByteQueue:
    """First in, first out. Chunks must not change after they are appended."""

    __slots__ = ("_chunks", "size")

    def __init__(self) -> None:
        self._chunks: deque[Buffer] = deque()
        self.size = 0
        """Bytes held."""

    def __len__(self) -> int:
        return self.size

    def append(self, chunk: Buffer) -> None:
        """Append a chunk, which must not be empty; a small one is copied, a large one kept."""
        self.size += len(chunk)
        if len(chunk) >= _SMALL:
            self._chunks.append(chunk)
            return
        last = self._chunks[-1] if self._chunks else None
        if isinstance(last, bytearray) and len(last) < _JOINED:
            last += chunk
        else:
            self._chunks.append(bytearray(chunk))

    def extend(self, other: "ByteQueue") -> None:
        """Append all that `other` holds, which must not be used afterwards."""
        self.size += other.size
        self._chunks.extend(other._chunks)

    def take(self, limit: int) -> Buffer:
        """Remove and return the first `limit` bytes, or all if there are fewer; copied only to join them."""
        chunks = self._chunks
        parts: list[Buffer] = []
        missing = min(limit, self.size)
        self.size -= missing
        while missing:
            chunk = chunks[0]
            if len(chunk) <= missing:
                parts.append(chunks.popleft())
            else:
                view = memoryview(chunk)
                parts.append(view[:missing])
                chunks[0] = view[missing:]
                break
            missing -= len(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def clear(self) -> None:
        """Drop everything."""
        self._chunks.clear()
        self.size = 0
