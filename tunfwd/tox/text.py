"""Words from peers, made fit for a terminal, a log line and a file name's neighbour."""

import unicodedata


def clean(data: bytes, limit: int) -> str:
    """Return `data` as one line of printable text, at most `limit` characters.

    What is not UTF-8 becomes U+FFFD. Control and format characters (categories C*: escapes, newlines,
    bidirectional overrides, unassigned) go, and runs of white space become one blank.
    """
    text = data.decode("utf-8", "replace")
    kept = ("" if unicodedata.category(char)[0] == "C" and not char.isspace() else char for char in text)
    return " ".join("".join(kept).split())[:limit].rstrip()
