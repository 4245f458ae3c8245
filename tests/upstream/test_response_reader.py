"""Responses as transcripts: the same bytes give the same result however the network cuts them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.fields import Header
from gateway.upstream.errors import UpstreamError
from gateway.upstream.response_head import ResponseHead
from gateway.upstream.response_reader import ResponseReader
from tests.upstream.hostile import CASES, CHUNKED_HEAD, CLOSE, GOOD, LINE, Case, head

Result = tuple[int, list[Header], bytes, bool, bool, bool] | str


def read(case: Case, cuts: list[int], known: ResponseHead | None = None) -> Result:
    """What comes out of the case's bytes, cut there, on a connection that has read the `known` head before."""
    reader = ResponseReader(case.method, known=known)
    ends = [*sorted(cut for cut in cuts if cut < len(case.data)), len(case.data)]
    body, start = b"", 0
    try:
        for end in ends:
            if end > start:
                reader.feed(case.data[start:end])
                body += reader.take()
            start = end
        if case.then is CLOSE:
            reader.feed_eof()
    except UpstreamError as error:
        return error.outcome.value
    return reader.status, reader.headers, body, reader.complete, reader.clean, reader.keep_alive


@pytest.mark.parametrize("case", [case for case in CASES if len(case.data) < 4096], ids=lambda case: case.name)
def test_response_is_read_the_same_byte_by_byte(case: Case) -> None:
    assert read(case, []) == read(case, list(range(len(case.data))))


@settings(max_examples=300, deadline=None)
@given(case=st.sampled_from(CASES), cuts=st.lists(st.integers(1, 70_000) | st.integers(1, 200), max_size=8))
def test_response_is_read_the_same_however_it_is_cut(case: Case, cuts: list[int]) -> None:
    assert read(case, []) == read(case, cuts)


def head_of(case: Case) -> ResponseHead | None:
    reader = ResponseReader(case.method)
    with contextlib.suppress(UpstreamError):
        reader.feed(case.data)
    return reader.head if reader.head is not None and reader.head.raw else None


KNOWN = [known for known in map(head_of, CASES) if known is not None]


@settings(max_examples=300, deadline=None)
@given(
    case=st.sampled_from([case for case in CASES if head_of(case)]) | st.sampled_from(CASES),
    other=st.sampled_from(KNOWN),
    cuts=st.lists(st.integers(1, 200), max_size=3),
)
def test_response_head_that_repeats_is_read_the_same(case: Case, other: ResponseHead, cuts: list[int]) -> None:
    assert read(case, cuts, head_of(case)) == read(case, cuts)
    assert read(case, cuts, other) == read(case, cuts)


@settings(max_examples=500, deadline=None)
@given(
    case=st.sampled_from([case for case in CASES if 0 < len(case.data) < 4096]),
    at=st.integers(0, 4096),
    damage=st.binary(max_size=3),
    removed=st.integers(0, 3),
    cuts=st.lists(st.integers(1, 300), max_size=4),
)
def test_damaged_response_is_read_the_same_however_it_is_cut(
    case: Case, at: int, damage: bytes, removed: int, cuts: list[int]
) -> None:
    at %= len(case.data)
    damaged = case.data[:at] + damage + case.data[at + removed :]

    assert read(Case("", damaged, (0, b""), case.then, case.method), []) == read(
        Case("", damaged, (0, b""), case.then, case.method), cuts
    )


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (head(b"Content-Type: A", b"Content-Length: 0"), [(b"content-type", b"A"), (b"content-length", b"0")]),
        (head(b"connection: x-a, X-B", b"x-a: 1", b"x-b: 2", b"x-c: 3", b"content-length: 0"), [(b"x-c", b"3")]),
        (head(b"keep-alive: timeout=5", b"proxy-connection: x", b"te: x", b"trailer: x", b"upgrade: x"), []),
        (CHUNKED_HEAD + b"0\r\nx-api-key: evil\r\n\r\n", []),
        (head(b"content-length: 4", line=b"HTTP/1.1 304 X\r\n"), []),
        (
            head(b"set-cookie: a", b"set-cookie: b", b"content-length: 0"),
            [(b"set-cookie", b"a"), (b"set-cookie", b"b")],
        ),
        (b"HTTP/1.1 103 X\r\nlink: x\r\n\r\n" + head(b"content-length: 0"), []),
    ],
)
def test_response_reader_gives_end_to_end_fields_only(data: bytes, headers: list[Header]) -> None:
    reader = ResponseReader(b"GET")
    reader.feed(data)

    assert headers == [field for field in reader.headers if field != (b"content-length", b"0") or field in headers]


def test_response_reader_gives_the_length_where_it_frames_and_on_head() -> None:
    for method, data, kept in [(b"GET", GOOD, True), (b"HEAD", GOOD[:-2], True), (b"GET", CHUNKED_HEAD, False)]:
        reader = ResponseReader(method)
        reader.feed(data)

        assert kept is any(name == b"content-length" for name, _ in reader.headers)


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"timeout=5", 5), (b"timeout=5, max=100", 5), (b"max=9", None), (b"timeout=x", None)]
)
def test_response_reader_reads_the_keep_alive_timeout(value: bytes, seconds: int | None) -> None:
    reader = ResponseReader(b"GET")
    reader.feed(LINE + b"keep-alive: " + value + b"\r\ncontent-length: 0\r\n\r\n")

    assert seconds == reader.keep_alive_seconds


def test_response_reader_takes_a_long_stream_of_tiny_chunks() -> None:
    reader = ResponseReader(b"GET")
    reader.feed(CHUNKED_HEAD)
    for _ in range(20_000):
        reader.feed(b"1\r\nx\r\n")

    assert reader.take() == b"x" * 20_000
