"""Every ticket of SPEC.md, written and read, and what is none."""

import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.common.errors import Malformed
from tunfwd.wire import ticket as tickets
from tunfwd.wire.packets import TOKEN, Protocol
from tunfwd.wire.ticket import Group, Inviter, Node, Ports, Ticket, decode, encode

from .test_spec_vectors import SPEC_FILE, table

VECTORS = table("tickets")
INVALID = table("not tickets")
MESSAGES = table("messages of friend requests")
PASSED_OVER = " and a field 80"


def ports_of(text: str) -> Ports:
    numbers, protocol = text.split("/")
    first, _, last = numbers.partition("-")
    return Ports(Protocol[protocol.upper()], int(first), int(last or first))


def value_of(text: str) -> Ticket:
    """Read how SPEC.md writes a ticket: fields by their names."""
    words = shlex.split(text.removesuffix(PASSED_OVER))
    locked = "locked" in words
    words = [word for word in words if word != "locked"]
    found = dict(zip(words[::2], words[1::2], strict=True))
    host, port, key = found["node"].rsplit(":", 2) if "node" in found else ("", "0", "")
    chat_id = found.get("private") or found.get("public")
    return Ticket(
        Inviter(bytes.fromhex(found["address"]), bytes.fromhex(found["token"]))
        if "address" in found
        else None,
        tuple(map(ports_of, found["ports"].split(","))) if "ports" in found else (),
        found.get("name", ""),
        found.get("nickname", ""),
        Node(host, int(port), bytes.fromhex(key)) if host else None,
        Group(bytes.fromhex(chat_id), found["group"], "private" in found, locked) if chat_id else None,
        found.get("password", ""),
        int(found["expires"]) if "expires" in found else None,
    )


@pytest.mark.parametrize(("written", "cell"), VECTORS, ids=range(len(VECTORS)))
def test_vector(written: str, cell: str) -> None:
    ticket, text = value_of(written), cell.strip("`")
    assert decode(text) == ticket
    if not written.endswith(PASSED_OVER):
        assert encode(ticket) == text


@pytest.mark.parametrize(("kind", "cell", "why"), INVALID, ids=[row[2] for row in INVALID])
def test_invalid_vector(kind: str, cell: str, why: str) -> None:
    with pytest.raises(Malformed) as caught:
        decode(cell.strip("`"))
    assert caught.value.kind == kind


def test_every_kind_of_refusal_has_a_vector_and_is_explained() -> None:
    source = SPEC_FILE.with_name("ticket.py").read_text()
    kinds = set(re.findall(r'Malformed\("(\w+)"\)', source))
    assert {row[0] for row in INVALID} == kinds
    for kind in kinds:
        assert f"| `{kind}` |" in SPEC_FILE.read_text().split("## 11. Tickets")[1]


@pytest.mark.parametrize(("token", "text", "message"), MESSAGES)
def test_message(token: str, text: str, message: str) -> None:
    text, message = text.strip("`"), message.strip("`")
    expected = None if token == "none" else bytes.fromhex(token)
    assert tickets.read_message(message) == (expected, text)
    if expected is not None:
        assert tickets.write_message(expected, text) == message


TEXT = decode(VECTORS[1][1].strip("`")), VECTORS[1][1].strip("`")


@pytest.mark.parametrize("broken", ["\n", "\r\n   ", " "])
def test_a_ticket_that_mail_has_broken_into_lines(broken: str) -> None:
    ticket, text = TEXT
    pieces = [text[i : i + 20] for i in range(0, len(text), 20)]
    assert decode(f"  {broken.join(pieces)}\n") == ticket
    assert decode(text.replace("tunfwd:", "TUNFWD:")) == ticket


def test_no_ticket_that_is_cut_anywhere_is_read() -> None:
    _, text = TEXT
    for end in range(len(text)):
        with pytest.raises(Malformed):
            decode(text[:end])


def test_no_ticket_with_another_character_is_read() -> None:
    _, text = TEXT
    for at in range(len(tickets.SCHEME), len(text)):
        other = "A" if text[at] != "A" else "B"
        with pytest.raises(Malformed):
            decode(text[:at] + other + text[at + 1 :])


@pytest.mark.parametrize(
    "wrong",
    [
        Ticket(),
        Ticket(Inviter(bytes(38), bytes(15)), (Ports(Protocol.TCP, 1, 1),)),
        Ticket(Inviter(bytes(38), bytes(16)), (Ports(Protocol.TCP, 1, 300),)),
        Ticket(Inviter(bytes(38), bytes(16)), (Ports(Protocol.TCP, 1, 1),), name="x" * 129),
        Ticket(Inviter(bytes(38), bytes(16)), (Ports(Protocol.TCP, 1, 1),), name="x" * 300),
        Ticket(Inviter(bytes(38), bytes(16)), (Ports(Protocol.TCP, 1, 1),), password="x"),
    ],
)
def test_what_is_no_ticket_is_not_written(wrong: Ticket) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  Malformed is one
        encode(wrong)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(
    st.binary(min_size=38, max_size=38),
    st.binary(min_size=TOKEN, max_size=TOKEN),
    st.lists(st.integers(1, 65535), min_size=1, max_size=51, unique=True),
    NAMES,
    NAMES,
    st.integers(0, 2**64 - 1),
)
def test_what_is_written_is_read(
    address: bytes, token: bytes, ports: list[int], name: str, nickname: str, expires: int
) -> None:
    ranges = tuple(Ports(Protocol(port % 2), port, port) for port in ports)
    ticket = Ticket(Inviter(address, token), ranges, name, nickname, expires=expires)
    assert decode(encode(ticket)) == ticket


@given(st.text())
def test_any_text_is_a_ticket_or_malformed(text: str) -> None:
    for whole in (text, tickets.SCHEME + text):
        with pytest.raises(Malformed):
            decode(whole)
