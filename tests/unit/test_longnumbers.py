"""Numbers that take a JSON parser long: how many a body may hold, and what is none."""

from __future__ import annotations

import time

import pytest

from authz.body import Body, read_json
from authz.longnumbers import MAX_LONG_A_MIB, one_too_many
from authz.model import Fault, Reason

MIB = 1 << 20
LONG = [
    b"1.797693134862315807e308",
    b"1.7976931348623158079e308",
    b"-17976931348623158079E-300",
    b"1797693134.8623158079123e+280",
    b"0." + b"1234567890" * 8 + b"e-300",
    b"12345678901234567890.123e250",
]
SHORT = [
    b"1.79769313486231580e308",
    b"1797693134862315807e289",
    b"0.12345678901234567890123",
    b"12345678901234567",
    b"1e300",
    b'"1.7976931348623158079e308"',
    b'"\\"1.7976931348623158079e308, \\\\"',
]


def body(number: bytes, times: int, filled: int = 0) -> bytes:
    return b'{"model":"m","x":[%b],"y":"%b"}' % (b",".join([number] * times), b"x" * filled)


@pytest.mark.parametrize("number", LONG)
@pytest.mark.parametrize("mib", [1, 3])
def test_so_many_and_no_more(number: bytes, mib: int) -> None:
    most = MAX_LONG_A_MIB * mib
    filled = mib * MIB - most * (len(number) + 1)
    assert isinstance(read_json(body(number, most, filled)), Body)
    raw = body(number, most + 1, filled)
    fault = read_json(raw)
    assert isinstance(fault, Fault)
    assert fault.reason is Reason.MALFORMED_BODY
    start = raw.rindex(number)
    assert fault.offset is not None
    assert start <= fault.offset < start + len(number)


@pytest.mark.parametrize("number", SHORT)
def test_of_others_there_may_be_any_number(number: bytes) -> None:
    times = 3_900 if number.startswith(b'"') else MIB // (len(number) + 1)
    assert isinstance(read_json(body(number, times)), Body)


def test_in_one_text_there_may_be_any_number() -> None:
    table = b"\\n".join([b"1.7976931348623158079e308"] * (MIB // 27))
    assert isinstance(read_json(body(b'"%b"' % table, 1)), Body)


@pytest.mark.parametrize("text", [rb"\\\"", rb"\"", rb"", rb"\\", rb"\"\\\\"])
def test_quotes_before_them_are_told_apart(text: bytes) -> None:
    """Behind a text that has ended, and in it, whatever is escaped there."""
    numbers = b",".join([LONG[0]] * 1000) + b" " * 20_000
    assert one_too_many(b'["%b",%b]' % (text, numbers)) is not None
    assert one_too_many(b'["%b,%b"]' % (text, numbers)) is None


@pytest.mark.parametrize("number", [*LONG, *SHORT])
def test_no_mebibyte_of_them_takes_long(number: bytes) -> None:
    raw = body(number, MIB // (len(number) + 1))
    took = 1.0
    for _ in range(5):
        began = time.process_time()
        read_json(raw)
        took = min(took, time.process_time() - began)
    assert took < 0.2
