import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunfwd.common.errors import EXIT_CODES, UserError
from tunfwd.control.protocol import (
    MAX_REQUEST,
    Request,
    decode_answer,
    decode_request,
    encode_error,
    encode_request,
    encode_result,
)


def test_request_bytes() -> None:
    line = encode_request(Request(1, "offer.add", {"port": 8080, "name": "wéb\n"}))
    assert line == b'{"id":1,"method":"offer.add","params":{"port":8080,"name":"w\\u00e9b\\n"}}\n'
    assert decode_request(line) == Request(1, "offer.add", {"port": 8080, "name": "wéb\n"})


def test_params_may_be_left_out() -> None:
    assert decode_request(b'{"id": 7, "method": "status"}') == Request(7, "status", {})


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"hello",
        b"\xff\xfe",
        bytes(100),
        '{"id": 1, "method": "status"}'.encode("utf-16"),
        '{"id": 1, "method": "status"}'.encode("utf-32-be"),
        b"[]",
        b"null",
        b'"id"',
        b"{}",
        b'{"id": "1", "method": "status"}',
        b'{"id": true, "method": "status"}',
        b'{"id": 1, "method": 2}',
        b'{"id": 1, "method": "status", "params": []}',
        b'{"id": 1, "method": "status", "extra": 0}',
        b'{"id": 1, "method": "status"} {"id": 2, "method": "status"}',
        b"[" * 60_000,
        b'{"id":' * 10_000,
        b'{"id": ' + b"9" * 5000 + b', "method": "status"}',
    ],
)
def test_what_is_no_request(line: bytes) -> None:
    with pytest.raises(UserError) as caught:
        decode_request(line)
    assert caught.value.code == "usage"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(line: bytes) -> None:
    with suppress(UserError):
        assert isinstance(decode_request(line), Request)


def test_a_request_that_the_daemon_would_not_read_is_not_sent() -> None:
    with pytest.raises(UserError, match="too long"):
        encode_request(Request(1, "friend.add", {"message": "x" * MAX_REQUEST}))


def test_answers() -> None:
    assert decode_answer(encode_result(1, {"ports": []})) == {"ports": []}
    for code in EXIT_CODES:
        with pytest.raises(UserError, match="no contact named") as caught:
            decode_answer(encode_error(1, UserError(code, "no contact named alice")))
        assert caught.value.code == code


def test_an_unknown_error_code_is_a_failure() -> None:
    with pytest.raises(UserError, match="new") as caught:
        decode_answer(b'{"id": 1, "error": {"code": "brand_new", "message": "new"}}')
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("answer", [{}, {"result": []}, {"error": "x"}, {"result": {}, "error": {}}])
def test_what_is_no_answer(answer: object) -> None:
    with pytest.raises(UserError, match="makes no sense"):
        decode_answer(json.dumps(answer).encode())


def test_exit_codes() -> None:
    assert EXIT_CODES == {
        "failed": 1,
        "usage": 2,
        "ambiguous": 2,
        "no_daemon": 3,
        "offline": 4,
        "not_found": 5,
        "denied": 6,
        "configuration": 7,
        "privilege": 8,
        "timeout": 124,
    }
