"""The control socket's lines: one JSON object each, a request or its answer.

    {"id": 1, "method": "offer.add", "params": {"port": 8080, "protocol": "tcp", "to": ["alice"]}}
    {"id": 1, "result": {"offers": [...]}}
    {"id": 1, "error": {"code": "not_found", "message": "there is no contact named alice"}}

Used by server.py and client.py; both directions are read strictly. `id` is the client's, and null in an
answer to a line that could not be read.
"""

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from tunfwd.common.errors import EXIT_CODES, UserError
from tunfwd.common.text import MESSAGE_LIMIT, clean

MAX_REQUEST: Final = 64 * 1024  # bytes of a request's line
MAX_ANSWER: Final = 16 * 1024 * 1024  # bytes of an answer's line: thousands of contacts


class Request(NamedTuple):
    """One call. `params` is a JSON object of any content; the method's own decoder judges it."""

    id: int
    method: str
    params: dict[str, object]


def encode_request(request: Request) -> bytes:
    """Return the request's line. Raises UserError when it would be longer than the daemon reads."""
    line = _line({"id": request.id, "method": request.method, "params": request.params})
    if len(line) > MAX_REQUEST:
        raise UserError("usage", f"the request is too long: {len(line)} of at most {MAX_REQUEST} bytes")
    return line


def decode_request(line: bytes) -> Request:
    """Return the request in a line. Raises UserError."""
    content = _object(line)
    if unknown := content.keys() - {"id", "method", "params"}:
        raise UserError("usage", f"unknown key {min(unknown)!r} in the request")
    match content.get("id"), content.get("method"), content.get("params", {}):
        case int() as number, str() as method, dict() as params if not isinstance(number, bool):
            return Request(number, method, params)
    raise UserError("usage", 'a request is {"id": NUMBER, "method": "NAME", "params": {…}}')


def encode_result(number: int, result: Mapping[str, object]) -> bytes:
    """Return the line of a call that succeeded."""
    return _line({"id": number, "result": result})


def encode_error(number: int | None, error: UserError) -> bytes:
    """Return the line of a call that failed."""
    return _line({"id": number, "error": {"code": error.code, "message": error.message}})


def decode_answer(line: bytes) -> dict[str, object]:
    """Return the result in an answer's line. Raises the UserError it carries, or one of our own."""
    content = _object(line)
    match content.get("result"), content.get("error"):
        case dict() as result, None:
            return result
        case None, {"code": str() as code, "message": str() as message}:
            # A code that only a newer daemon knows is a failure all the same.
            shown = "\n".join(clean(line, MESSAGE_LIMIT) for line in message.split("\n"))
            raise UserError(next((known for known in EXIT_CODES if known == code), "failed"), shown)
    raise UserError("failed", "the daemon's answer makes no sense: is it another version? (tunfwd version)")


def _line(content: Mapping[str, object]) -> bytes:
    # Escaped to ASCII: no character of a peer's name can end the line or confuse who reads it raw.
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _object(line: bytes) -> dict[str, object]:
    try:
        # UTF-8, whatever the bytes look like
        content = json.loads(line.decode(), object_pairs_hook=_each_once, parse_constant=_no_number)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, a number of 5000 digits; [[[[[[…
        content = None
    if not isinstance(content, dict):
        raise UserError("usage", "a line holds one JSON object, each key of it once")
    return content


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key occurs twice")
    return content


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is not JSON")
