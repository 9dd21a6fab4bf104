"""Words from peers, as toxcore hands them over: bytes that need not be UTF-8."""

from tunfwd.wire import text


def clean(data: bytes, limit: int) -> str:
    """Return `data` as one line of printable text, at most `limit` characters; see `wire.text`.

    What is not UTF-8 becomes U+FFFD.
    """
    return text.clean(data.decode("utf-8", "replace"), limit)
