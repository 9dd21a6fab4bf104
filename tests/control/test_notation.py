import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.common.notation import (
    Target,
    read_address,
    read_key,
    read_port,
    read_target,
)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("127.0.0.1:80", Target("127.0.0.1", 80)),
        ("localhost:65535", Target("localhost", 65535)),
        ("[::1]:22", Target("::1", 22)),
        ("nas.lan.:445", Target("nas.lan.", 445)),
        ("a_b-c.example:1", Target("a_b-c.example", 1)),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert read_target(text) == target
    assert str(target) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        ":80",
        "host:",
        "host:0",
        "host:99999",
        "::1:80",
        "[::1]80",
        "[zz]:80",
        "ho st:80",
        "-h:80",
        "h/x:80",
    ],
)
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_target(text)


# An address made by libtoxcore's rules: key, nospam, XOR of both in pairs of bytes
ADDRESS = bytes(range(36))
CHECKSUM = bytes([0, 0])
for i in range(0, 36, 2):
    CHECKSUM = bytes([CHECKSUM[0] ^ ADDRESS[i], CHECKSUM[1] ^ ADDRESS[i + 1]])
ADDRESS_TEXT = (ADDRESS + CHECKSUM).hex()


def test_addresses() -> None:
    assert read_address(f" tox:{ADDRESS_TEXT}\n") == ADDRESS_TEXT.upper()
    assert read_key(ADDRESS_TEXT) == read_key(ADDRESS_TEXT[:64].upper()) == bytes(range(32))


@given(st.integers(0, 75), st.sampled_from("0123456789abcdef"))
def test_one_wrong_digit_is_noticed(at: int, digit: str) -> None:
    text = ADDRESS_TEXT[:at] + digit + ADDRESS_TEXT[at + 1 :]
    if text == ADDRESS_TEXT:
        return
    with pytest.raises(ValueError, match="wrong digit"):
        read_address(text)


@pytest.mark.parametrize(
    "text", ["", "ab", "g" * 76, ADDRESS_TEXT[:-1], ADDRESS_TEXT + "0", ADDRESS_TEXT[:64]]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="76 hex digits"):
        read_address(text)


@pytest.mark.parametrize("text", ["", "ab", "g" * 64, "a" * 63, "a" * 65, "ab cd" * 13])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(ValueError, match="64 hex digits"):
        read_key(text)


@given(st.integers())
def test_port_numbers(number: int) -> None:
    if 1 <= number <= 65535:
        assert read_port(number) == read_port(str(number)) == number
    else:
        with pytest.raises(ValueError, match="not a port"):
            read_port(number)
