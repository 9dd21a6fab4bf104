"""Text from outside: requests on the control socket, the configuration, the state."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

from tunfwd.common.errors import EXIT_CODES, ConfigurationError, UserError
from tunfwd.common.schema import Mismatch, decode
from tunfwd.config import document as config
from tunfwd.config.rules import Expose, RuleTable
from tunfwd.config.toml_lines import locate
from tunfwd.control import api, protocol
from tunfwd.daemon.storage.state import FILE, State
from tunfwd.tox.nodes import ListError, listed, read_list

from .choices import Choices

METHODS = [value for value in vars(api).values() if isinstance(value, api.Method)]
WORDS = (
    "",
    "a",
    "alice",
    "group:lan",
    "all",
    "..",
    "127.0.0.1:80",
    "tcp",
    "udp",
    "auto",
    "A" * 76,
    "x" * 300,
)


def request(data: bytes) -> None:
    """A line of the control socket, for each method that there is."""
    try:
        read = protocol.decode_request(data)
    except UserError as error:
        _judge(error)
    else:
        with suppress(ValueError):  # of a number that is no number
            assert protocol.decode_request(protocol.encode_request(read)) == read
        for method in METHODS:
            try:
                decode(method.params, read.params)
            except Mismatch as wrong:
                str(wrong).encode()
    try:
        protocol.decode_answer(data)
    except UserError as error:
        _judge(error)


def parameters(data: bytes) -> None:
    """Parameters with the right names, and values of any kind."""
    choices = Choices(data)
    method = choices.one_of(METHODS)
    params = {name: some_value(choices, 2) for name in method.params.__annotations__ if choices.below(4)}
    if choices.yes(16):
        params[choices.one_of(WORDS)] = some_value(choices, 2)
    line = json.dumps({"id": 1, "method": method.name, "params": params}).encode()
    request(line)


def some_value(choices: Choices, depth: int) -> object:
    """What JSON can say."""
    match choices.below(9 if depth else 7):
        case 0 | 1:
            return choices.one_of(WORDS)
        case 2:
            return choices.take(choices.below(32)).decode(errors="surrogateescape")
        case 3:
            return choices.number(64) - choices.below(2) * choices.number(32)
        case 4:
            return choices.one_of((None, True, False, 0, 1.5, -1, float("1e300"), 10**400))
        case 5:
            return choices.below(65536)
        case 6:
            return choices.one_of(("10.77.0.5", "fd00::1", "22", "80-90", "0" * 64, "socks5://h:1", "\ufeff"))
        case 7:
            return [some_value(choices, depth - 1) for _ in range(choices.below(4))]
    return {choices.one_of(WORDS): some_value(choices, depth - 1) for _ in range(choices.below(4))}


def _judge(error: UserError) -> None:
    assert error.code in EXIT_CODES
    assert str(error.message).isprintable() or "\n" in error.message


def configuration(data: bytes) -> None:
    """A configuration file: taken, or refused with a line that says why."""
    try:
        file = data.decode()
    except UnicodeDecodeError:
        return
    try:
        document = config.parse(file, "config.toml")
    except ConfigurationError as error:
        assert error.message.startswith("config.toml")  # noqa: PT017
        return
    document.tox.settings(Path("/nowhere"), "somebody")
    assert all(line > 0 for line in locate(file).values())


def settings(data: bytes) -> None:
    """A configuration with the right names, and values of any kind."""
    choices = Choices(data)
    lines = []
    for field in fields(config.Document):
        if not choices.below(3):
            continue
        several = field.name in ("rule", "expose")
        for _ in range(1 + choices.below(2) if several else 1):
            lines.append(f"[[{field.name}]]" if several else f"[{field.name}]")
            for key in _keys(field.name):
                if choices.yes(3) and (value := _toml(some_value(choices, 1))) is not None:
                    lines.append(f"{key} = {value}")
    configuration("\n".join(lines).encode(errors="replace"))


@cache
def _keys(table: str) -> list[str]:
    """The keys of a table of the configuration."""
    kind = type(getattr(config.Document(), table))
    if kind is tuple:
        kind = RuleTable if table == "rule" else Expose
    return [field.name for field in fields(kind)] if is_dataclass(kind) else []


def _toml(value: object) -> str | None:
    """A value as TOML writes it; None where it cannot."""
    match value:
        case None | dict():
            return None
        case list():
            return "[" + ", ".join(part for item in value if (part := _toml(item)) is not None) + "]"
        case float() if value > 1e18:
            return "1e300"
    return json.dumps(value)


def state(data: bytes) -> None:
    """A file that has the place of the state: read, or put aside, but never in the way of a start."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_memory()) as folder:
        Path(folder, FILE).write_bytes(data)
        try:
            loaded = State.load(Path(folder))
        except ConfigurationError as error:  # of a newer program
            assert "schema" in error.message  # noqa: PT017
            return
        with loaded:
            loaded.content.names["A" * 64] = "alice"
            loaded.save()
        with State.load(Path(folder)) as again:
            assert again.content == loaded.content


def nodes(data: bytes) -> None:
    """A list of nodes: refused in one line, or taken, and then kept and read again as it is."""
    try:
        taken = read_list(data)
    except ListError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return
    for node in taken:
        [again] = read_list(json.dumps({"nodes": [node.document()]}).encode())
        assert listed(again, "added").hosts == listed(node, "added").hosts
        assert str(listed(again, "added"))


@cache
def _memory() -> str | None:
    """A folder that is not on a disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
