"""What contacts, groups and offers may be called, by a person here or by themselves.

A name is shown in tables, typed on command lines, and matched by rules. Names are composed Unicode (NFC),
however the keyboard, the file or the contact wrote them. One that means something else (`group:lan/bob`, `*`,
`all`, `..`, `-x`, the beginning of a key) is refused where a person gives it, and made harmless where a
contact does.
"""

import re
import unicodedata
from typing import Annotated, Final

from tunfwd.common.schema import Parse
from tunfwd.common.text import clean

NAME_BYTES: Final = 128  # of a contact's or offer's name in UTF-8; the wire takes 255, Tox nicknames 128
KEY_PREFIX: Final = 4  # hex digits; a shorter beginning of a key or id is taken for a name
SYNTAX: Final = frozenset("/:*?[]\\")  # "group:lan/bob", "conference:club", patterns
RESERVED: Final = frozenset(
    {"all", "any", "everybody", "everyone", "me", "nobody", "none", "self", "localhost", "tunfwd"}
    | {"friend", "friends", "group", "groups", "conference", "conferences"}
)

_HEX = re.compile(r"[0-9a-fA-F]+")
_KEY_LIKE: Final = 8  # hex digits; offers' ids and the shown beginnings of keys have as many


def composed(text: str) -> str:
    """Return `text` in NFC, with plain spaces: what a person typed, as it is compared with names."""
    spaced = (" " if unicodedata.category(character) == "Zs" else character for character in text)
    return unicodedata.normalize("NFC", "".join(spaced))


def folded(text: str) -> str:
    """Return what two names have in common that people take for one another, but for their script."""
    return unicodedata.normalize("NFKC", text).casefold()


def read_name(text: str) -> str:
    """Read a name for a contact or an offer: what is shown has to be what was typed."""
    if not text:
        raise ValueError("a name cannot be empty")
    name = composed(text[: 8 * NAME_BYTES])
    if len(name.encode("utf-8", "surrogatepass")) > NAME_BYTES:
        raise ValueError(f"{text[:20]!r}… is too long for a name: {NAME_BYTES} bytes at most")
    if clean(name, NAME_BYTES) != name:
        raise ValueError(f"{text!r}: a name has no control or invisible characters and no space at its ends")
    return name


def read_contact_name(text: str) -> str:
    """Read a name for a friend or a group, which means nothing else where a contact is asked for."""
    name = read_name(text)
    if wrong := SYNTAX & {*name}:
        raise ValueError(f"{name!r}: a contact's name cannot contain {' '.join(sorted(wrong))!r}")
    if name.startswith("-"):
        raise ValueError(f"{name!r}: a contact's name cannot begin with '-', as options do")
    if not name.strip("."):
        raise ValueError(f"{name!r}: a contact's name cannot be of dots only")
    if folded(name) in RESERVED:
        raise ValueError(f"{name!r} means something else here; choose another name")
    if _HEX.fullmatch(name) and len(name) >= _KEY_LIKE:
        raise ValueError(f"{name!r} looks like a public key or an id; choose another name")
    return name


def harmless(text: str, key: str) -> str:
    """Return a name like `text`, which the owner of `key` chose, that means nothing else. It may be empty."""
    name = "".join("_" if character in SYNTAX else character for character in clean(text, NAME_BYTES))
    if name.startswith("-") or not name.strip("."):
        name = "_" * bool(name) + name[1:]
    if folded(name) in RESERVED:
        name += "_"
    if is_key_prefix(name) and not key.startswith(name.upper()):
        name = f"~{name}"
    return name


def is_key_prefix(name: str) -> bool:
    """Whether a name could be the beginning of a key or an id."""
    return len(name) >= KEY_PREFIX and _HEX.fullmatch(name) is not None


ContactName = Annotated[str, Parse(str, read_contact_name)]
OfferName = Annotated[str, Parse(str, read_name)]
Spoken = Annotated[str, Parse(str, composed)]
"""A name, or the beginning of a key or an id, of something that exists."""
