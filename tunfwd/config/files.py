"""Files that the configuration names."""

from pathlib import Path
from typing import Annotated

from tunfwd.common.schema import Parse
from tunfwd.files import read_whole

MAX_SECRET = 4096  # bytes


def read_file(text: str) -> Path:
    """Read an absolute path, or one that begins with ~. Raises ValueError."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text!r}: there is no such user") from None
    if "\0" in text:
        raise ValueError(f"{text!r} is not a path")
    if not path.is_absolute():
        raise ValueError(f"{text!r} is not an absolute path")
    return path


def read_secret(path: Path) -> str:
    """Return the first line of a file. Raises ValueError."""
    try:
        lines = read_whole(path, MAX_SECRET).decode().splitlines()
    except OSError as failure:
        raise ValueError(f"{path}: cannot be read: {failure.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text") from None
    return lines[0] if lines else ""


File = Annotated[Path, Parse(str, read_file)]
