"""Chunked bodies: content and what follows it, the same however the network cuts the bytes, or a refusal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.chunked import MAX_OVERHEAD_BYTES, ChunkedReader, MalformedChunksError

MAX_LINE_BYTES = 1024
LEGAL = {
    b"0\r\n\r\n": (b"", b""),
    b"2\r\nok\r\n0\r\n\r\n": (b"ok", b""),
    b"2\r\nok\r\nA\r\n0123456789\r\n0\r\n\r\n": (b"ok0123456789", b""),
    b"0002\r\nok\r\n00\r\n\r\n": (b"ok", b""),
    b"2;a=b\r\nok\r\n0;c\r\n\r\n": (b"ok", b""),
    b"2 \t;a\r\nok\r\n0\r\n\r\n": (b"ok", b""),
    b"2\r\n\r\n\r\n0\r\n\r\n": (b"\r\n", b""),
    b"2\r\nok\r\n0\r\nx-api-key: evil\r\nb:\r\n\r\n": (b"ok", b""),
    b"2\r\nok\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n": (b"ok", b"GET / HTTP/1.1\r\n\r\n"),
    b"0\r\n\r\n\r\n": (b"", b"\r\n"),
    b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n": (b"x" * 2000, b""),
}
MALFORMED = [
    b"\r\nok\r\n0\r\n\r\n",
    b"+2\r\nok\r\n0\r\n\r\n",
    b"-2\r\nok\r\n0\r\n\r\n",
    b"0x2\r\nok\r\n0\r\n\r\n",
    b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    b" 2\r\nok\r\n0\r\n\r\n",
    b"2 \r\nok\r\n0\r\n\r\n",
    b"2\nok\r\n0\r\n\r\n",
    b"2\r\nok\n0\r\n\r\n",
    b"2\r\nokX\r\n0\r\n\r\n",
    b"3\r\nok\r\n0\r\n\r\n",
    b"2\r\nok\r\n0\n\n",
    b"2;a=\0\r\nok\r\n0\r\n\r\n",
    b"2;a\nb\r\nok\r\n0\r\n\r\n",
    b"2;a\rb\r\nok\r\n0\r\n\r\n",
    b"10000000000000002\r\nok\r\n0\r\n\r\n",
    b"0\r\nx\r\n\r\n",
    b"0\r\nx : y\r\n\r\n",
    b"0\r\n x: y\r\n\r\n",
    b"2;" + b"a" * MAX_LINE_BYTES + b"\r\nok\r\n0\r\n\r\n",
    b"2;" + b"a" * 100_000,
    b"0\r\nx: " + b"y" * MAX_LINE_BYTES + b"\r\n\r\n",
    b"0" * 100_000,
    b"0\r\n" + b"a: b\r\n" * (MAX_OVERHEAD_BYTES // 6 + 1) + b"\r\n",
    (b"1;" + b"a" * 200 + b"\r\nx\r\n") * 200 + b"0\r\n\r\n",
]


def read(data: bytes, cuts: list[int]) -> tuple[bytes, bytes] | None:
    """Content and rest; None for malformed bytes."""
    reader, content, start = ChunkedReader(MAX_LINE_BYTES), b"", 0
    for end in [*sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]:
        try:
            piece, rest = reader.feed(data[start:end])
        except MalformedChunksError:
            return None
        content += piece
        if reader.is_complete:
            return content, rest + data[end:]
        start = end
    pytest.fail("the body did not end")


@pytest.mark.parametrize("data", LEGAL)
def test_chunked_body_is_read_to_its_end(data: bytes) -> None:
    assert read(data, []) == LEGAL[data]
    assert read(data, list(range(len(data)))) == LEGAL[data]


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:30]))
def test_malformed_chunks_are_refused(data: bytes) -> None:
    assert read(data, []) is None
    assert read(data, list(range(min(len(data), 3000)))) is None


@given(data=st.sampled_from(list(LEGAL)) | st.sampled_from(MALFORMED), cuts=st.lists(st.integers(1, 3000), max_size=8))
def test_chunked_body_is_read_the_same_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    assert read(data, cuts) == read(data, [])


@given(
    contents=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    rest=st.binary(max_size=20),
    cuts=st.lists(st.integers(1, 2500), max_size=8),
)
def test_any_content_comes_out_as_it_went_in(contents: list[bytes], rest: bytes, cuts: list[int]) -> None:
    body = b"".join(b"%x\r\n%b\r\n" % (len(content), content) for content in contents) + b"0\r\n\r\n"

    assert read(body + rest, cuts) == (b"".join(contents), rest)


def test_large_body_does_not_pay_for_overhead_after_it() -> None:
    reader = ChunkedReader(MAX_LINE_BYTES)
    reader.feed(b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n")

    with pytest.raises(MalformedChunksError, match="more than the body"):
        reader.feed((b"1;" + b"a" * 200 + b"\r\nx\r\n") * 200)


def test_forbidden_trailer_is_refused_in_any_case_of_letters() -> None:
    reader = ChunkedReader(MAX_LINE_BYTES, forbidden_trailers=frozenset({b"content-length"}))

    with pytest.raises(MalformedChunksError, match="Content-Length"):
        reader.feed(b"0\r\nContent-Length: 5\r\n\r\n")
    assert read(b"0\r\nContent-Length: 5\r\n\r\n", []) == (b"", b"")


def test_content_pays_for_the_extensions_between_its_chunks() -> None:
    extended, plain = b"1;" + b"a" * 100 + b"\r\nx\r\n", b"3c\r\n" + b"y" * 60 + b"\r\n"
    body = (extended + plain) * 1000

    assert read(body + b"0\r\n\r\n", []) == ((b"x" + b"y" * 60) * 1000, b"")
