import pytest

from tunfwd.control.errors import ControlError
from tunfwd.control.lookup import find

THINGS = [
    ("web", "1a2b3c4d"),
    ("web", "1affffff"),
    ("cs", "00000001"),
    ("", "beef0000"),
    ("beef", "12345678"),
]


def _find(wanted: str) -> tuple[str, str]:
    return find(
        wanted,
        THINGS,
        "offer",
        name=lambda thing: thing[0],
        id=lambda thing: thing[1],
        describe=lambda thing: f"{thing[0]} {thing[1]}",
    )


@pytest.mark.parametrize(
    ("wanted", "id"),
    [
        ("cs", "00000001"),
        ("1A2", "1a2b3c4d"),
        ("00000001", "00000001"),
        ("beef", "12345678"),
        ("beef0", "beef0000"),
    ],
)
def test_found(wanted: str, id: str) -> None:
    assert _find(wanted)[1] == id


@pytest.mark.parametrize(
    ("wanted", "code", "message"),
    [
        ("", "not_found", "no offer ''"),
        ("nope", "not_found", "no offer 'nope'"),
        ("\x1b[31m", "not_found", r"no offer '\[31m'"),
        ("WEB", "not_found", "no offer"),
        ("web", "ambiguous", "web 1a2b3c4d; web 1affffff"),
        ("1a", "ambiguous", "fits more than one offer"),
    ],
)
def test_not_found(wanted: str, code: str, message: str) -> None:
    with pytest.raises(ControlError, match=message) as caught:
        _find(wanted)
    assert caught.value.code == code
