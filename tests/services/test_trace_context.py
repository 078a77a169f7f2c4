"""`traceparent`, by the examples and rules of the W3C recommendation Trace Context."""

import pytest

from services.trace_context import Parent, parent_of

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = b"00f067aa0ba902b7"
SAMPLED = Parent(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, sampled=True)


def given(*values: bytes) -> Parent | None:
    return parent_of([(b"host", b"service"), *((b"traceparent", value) for value in values)])


@pytest.mark.parametrize(
    "value",
    [
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"00-" + TRACE + b"-" + SPAN + b"-ff",
        b" \t00-" + TRACE + b"-" + SPAN + b"-01\t ",
        b"cc-" + TRACE + b"-" + SPAN + b"-01",
        b"cc-" + TRACE + b"-" + SPAN + b"-01-what-the-future-will-be-like",
    ],
)
def test_follows_a_sampled_parent(value: bytes) -> None:
    assert given(value) == SAMPLED


@pytest.mark.parametrize("flags", [b"00", b"02", b"fe"])
def test_only_the_last_bit_of_the_flags_says_sampled(flags: bytes) -> None:
    assert given(b"00-" + TRACE + b"-" + SPAN + b"-" + flags) == SAMPLED._replace(sampled=False)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-" + TRACE + b"-" + SPAN,
        b"00-" + TRACE + b"-" + SPAN + b"-",
        b"00-" + TRACE + b"-" + SPAN + b"-1",
        b"00-" + TRACE + b"-" + SPAN + b"-001",
        b"00-" + TRACE + b"-" + SPAN + b"-.0",
        b"00-" + TRACE + b"-" + SPAN + b"-01-",
        b"00-" + TRACE + b"-" + SPAN + b"-01-what-the-future-will-be-like",
        b"cc-" + TRACE + b"-" + SPAN + b"-01.what-the-future-will-be-like",
        b"ff-" + TRACE + b"-" + SPAN + b"-01",
        b".0-" + TRACE + b"-" + SPAN + b"-01",
        b"0-" + TRACE + b"-" + SPAN + b"-01",
        b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"00-" + TRACE.upper() + b"-" + SPAN + b"-01",
        b"00-" + b"." + TRACE[1:] + b"-" + SPAN + b"-01",
        b"00-" + TRACE[1:] + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"0-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + SPAN[1:] + b"-01",
        b"00-" + TRACE + b"-" + SPAN + b"0-01",
        b"00-" + TRACE + b"-" + SPAN + b"-01\n",
    ],
)
def test_a_malformed_header_is_as_if_absent(value: bytes) -> None:
    assert given(value) is None


def test_two_headers_are_as_if_absent() -> None:
    good = b"00-" + TRACE + b"-" + SPAN + b"-01"

    assert given() is None
    assert given(good, good) is None
