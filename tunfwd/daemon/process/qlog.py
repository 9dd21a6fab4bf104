"""Files of `[log] qlog`: written by a thread of its own, so that a slow disk never holds up the engine.

Records wait in a queue; where the disk does not keep up, it fills, and who brings more is told so. A file is
made when its first record is written, for its owner alone, and never over another. What a folder holds in
traces is bounded, runs before this one included: then nothing is added until somebody makes room.
"""

import atexit
import logging
import os
import tempfile
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

SUFFIX: Final = ".sqlog"
MAX_QUEUE: Final = 8 << 20  # bytes that wait to be written
MAX_FILE: Final = 64 << 20  # bytes of a trace; qvis has them all in memory
MAX_FOLDER: Final = 1 << 30  # bytes of all traces
MAX_FILES: Final = 1024
GATHER: Final = 0.1  # s between two writes, which so are few and large
FLUSH_TIME: Final = 1.0  # s for what waits at the end

log = logging.getLogger(__name__)


def prepare(folder: Path) -> None:
    """Make the folder, where it is not there, and see that files can be made in it. Raises OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=folder)
    os.close(descriptor)
    os.unlink(name)


class QlogFiles:
    """The traces of one folder, and the thread that writes them."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where it cannot be written to."""
        prepare(folder)
        self.folder = folder
        found = [entry for entry in os.scandir(folder) if entry.name.endswith(SUFFIX)]
        self._left = MAX_FOLDER - sum(entry.stat(follow_symlinks=False).st_size for entry in found)
        self._files = MAX_FILES - len(found)
        self._queue: deque[tuple[QlogFile, bytes]] = deque()
        self._waiting = 0  # bytes in the queue
        self._changed = threading.Condition()
        self._ending = False
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._write_all, name="qlog", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def open(self, stem: str) -> "QlogFile":
        """Return a file to be, called as `stem` says."""
        return QlogFile(self, stem)

    def close(self) -> None:
        """Write what waits, as far as that takes no longer than `FLUSH_TIME`."""
        atexit.unregister(self.close)
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(FLUSH_TIME)

    def put(self, file: "QlogFile", record: bytes, *, must: bool) -> bool:
        """Queue a record; False where there is no room."""
        with self._changed:
            if not must and self._waiting + len(record) > MAX_QUEUE:
                return False
            if self._left < len(record) and not must:
                self._say(f"{self.folder} holds {MAX_FOLDER >> 20} MiB of traces: nothing is added")
                return False
            if not self._queue:
                self._changed.notify()
            self._queue.append((file, record))
            self._waiting += len(record)
            self._left -= len(record)
        return True

    def _say(self, text: str) -> None:
        """Say it once."""
        if text not in self._said:
            self._said.add(text)
            log.warning("[log] qlog: %s", text)

    # The thread.

    def _write_all(self) -> None:
        open_files: set[QlogFile] = set()
        while True:
            with self._changed:
                while not self._queue and not self._ending:
                    self._changed.wait()
                queue, self._queue, self._waiting = self._queue, deque(), 0
                ending = self._ending
            records: dict[QlogFile, list[bytes]] = {}
            for file, record in queue:
                records.setdefault(file, []).append(record)
            for file, found in records.items():
                self._write(file, b"".join(found))
                open_files.add(file)
            if ending:
                break
            time.sleep(GATHER)
        for file in open_files:
            file.close()

    def _write(self, file: "QlogFile", data: bytes) -> None:
        try:
            if file.descriptor is None:
                if not self._files:
                    self._say(f"{self.folder} holds {MAX_FILES} traces: nothing is added")
                    return
                self._files -= 1
                file.create()
            while data and file.descriptor is not None:
                data = data[os.write(file.descriptor, data) :]
        except OSError as failure:
            self._say(f"{self.folder}: {failure.strerror}")


class QlogFile:
    """Where the records of one trace go."""

    def __init__(self, files: QlogFiles, stem: str) -> None:
        self._files = files
        self._stem = stem
        self.descriptor: int | None = None
        """Of the thread that writes."""

    def __call__(self, record: bytes, *, must: bool = False) -> bool:
        """Take a record; see Sink."""
        return self._files.put(self, record, must=must)

    def create(self) -> None:
        """Make the file, under a name that is not there. Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        for number in range(1, MAX_FILES + 1):
            name = self._stem if number == 1 else f"{self._stem}-{number}"
            with suppress(FileExistsError):
                self.descriptor = os.open(self._files.folder / f"{name}{SUFFIX}", flags, 0o600)
                return

    def close(self) -> None:
        """Close the file."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
