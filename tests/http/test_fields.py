"""The grammar of header fields, and blocks that can carry no second request."""

from __future__ import annotations

import pytest

from gateway.http.fields import HOP_BY_HOP, NO_FIELDS, has_control, header_block, is_token, list_members
from gateway.http.framing import is_chunked, is_content_length


@pytest.mark.parametrize("block", [b"", b"a: b\r\n", b"a:\r\n", b"a: b\r\nx-1: caf\xe9\tb\r\n", b"~|`: 1\r\n"])
def test_header_block_takes_lower_case_fields(block: bytes) -> None:
    assert header_block(block) == block


@pytest.mark.parametrize(
    "block",
    [b"a: b", b"a: b\n", b"A: b\r\n", b"a b: c\r\n", b" a: b\r\n", b": b\r\n", b"a: b\r\n\r\n", b"a: b\0\r\n"]
    + [b"a: b\r\n c\r\n", b"a: b\rc: d\r\n"]
    + [
        b"x: y\r\n" + name + b": 1\r\n" for name in (b"content-length", b"transfer-encoding", b"connection", b"upgrade")
    ],
)
def test_header_block_refuses_what_could_be_read_in_two_ways(block: bytes) -> None:
    with pytest.raises(ValueError, match="the header block"):
        header_block(block)


def test_two_header_blocks_are_one() -> None:
    assert header_block(header_block(b"a: b\r\n") + header_block(b"c: d\r\n") + NO_FIELDS)


@pytest.mark.parametrize(("name", "expected"), [(b"X-Api_Key", True), (b"", False), (b"a b", False), (b"a\xe9", False)])
def test_token_is_of_visible_ascii_without_delimiters(name: bytes, expected: bool) -> None:
    assert (is_token(name) is not None) is expected


@pytest.mark.parametrize(
    ("value", "expected"), [(b"a\tb \xe9", False), (b"a\rb", True), (b"\0", True), (b"\x7f", True)]
)
def test_control_characters_but_the_tab_are_found(value: bytes, expected: bool) -> None:
    assert has_control(value) is expected


def test_list_members_are_trimmed_and_in_lower_case() -> None:
    assert list_members(b"Close,\tX-A , te") == [b"close", b"x-a", b"te"]


def test_hop_by_hop_fields_are_those_of_the_standard() -> None:
    named = b"connection keep-alive proxy-connection te transfer-encoding upgrade"  # RFC 9110 section 7.6.1
    assert set(named.split()) | {b"trailer"} == HOP_BY_HOP


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (b"0", True),
        (b"9" * 18, True),
        (b"9" * 19, False),
        (b"", False),
        (b"+1", False),
        (b"1, 1", False),
        (b" 1", False),
    ],
)
def test_content_length_is_digits_that_fit_64_bits(length: bytes, expected: bool) -> None:
    assert (is_content_length(length) is not None) is expected


@pytest.mark.parametrize(
    ("codings", "expected"), [(b" Chunked\t", True), (b"gzip, chunked", False), (b"chunked;q=1", False), (b"", False)]
)
def test_chunked_is_the_only_transfer_coding(codings: bytes, expected: bool) -> None:
    assert is_chunked(codings) is expected
