"""Pointer prices: the value at the first pointer that resolves, in every form that a response has."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from gateway.proxy.metering.pointers import PointerReader
from gateway.proxy.metering.usage_meter import open_meter
from policies.pricing.price import Price
from tests.proxy.metering.wire import (
    ENCODINGS,
    FRAMES,
    JSON,
    NDJSON,
    SSE,
    array,
    body,
    event_frame,
    events,
    lines,
    pieces,
)

CASES = [
    ("number", ["/usage/total_tokens"], {"usage": {"total_tokens": 90}}, 90),
    ("zero", ["/n"], {"n": 0}, 0),
    ("decimal", ["/usage/cost"], {"usage": {"cost": 0.00012345}}, Decimal("0.00012345")),
    ("array", ["/data"], {"data": [1, [2, 3], {"x": [4]}, "a,b"]}, 4),
    ("empty-array", ["/data"], {"data": []}, 0),
    ("string", ["/input"], {"input": 'é😀\n"'}, 4),
    ("element", ["/data/1/n"], {"data": [{"n": 1}, {"n": 2}]}, 2),
    ("string-in-array", ["/data/0"], {"data": ["abc"]}, 3),
    ("index-as-name", ["/data/1"], {"data": {"1": 7}}, 7),
    ("escaped-tokens", ["/a~1b/c~0d"], {"a/b": {"c~d": 5}}, 5),
    ("first-that-resolves", ["/response/usage/total_tokens", "/usage/total_tokens"], {"usage": {"total_tokens": 9}}, 9),
    ("order-of-pointers", ["/b", "/a"], {"a": 1, "b": 2}, 2),
    ("null-does-not-resolve", ["/a", "/b"], {"a": None, "b": 2}, 2),
    ("object-does-not-resolve", ["/a", "/a/b"], {"a": {"b": 3}}, 3),
    ("boolean-does-not-resolve", ["/a"], {"a": True}, None),
    ("negative-does-not-resolve", ["/a"], {"a": -1}, None),
    ("absent", ["/a"], {"b": 1}, None),
    ("leading-zero-is-no-index", ["/a/01"], {"a": [1, 2]}, None),
    ("index-beyond", ["/a/5"], {"a": [1, 2]}, None),
]


def value(
    pointers: list[str], content_type: bytes, chunks: list[bytes], encoding: bytes = b"", small_bytes: int = 64 * 1024
) -> int | Decimal | None:
    reader = PointerReader(pointers, content_type, encoding, small_bytes=small_bytes)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.value()


@pytest.mark.parametrize(
    ("pointers", "document", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
@pytest.mark.parametrize("size", [1, 10**6])
@pytest.mark.parametrize("small_bytes", [0, 64 * 1024])
def test_value_is_found_in_every_form(
    pointers: list[str], document: object, expected: object, size: int, small_bytes: int
) -> None:
    other = {"zzz": [1]}
    forms = [
        (JSON, body(document)),
        (SSE, events(other, document, other)),
        (NDJSON, lines(other, document, other)),
        (JSON, array(other, document, other)),
        (FRAMES, event_frame("x", document) + event_frame("y", other)),
    ]
    for content_type, content in forms:
        assert value(pointers, content_type, pieces(content, size), small_bytes=small_bytes) == expected


@pytest.mark.parametrize(("encoding", "encode"), ENCODINGS, ids=range(len(ENCODINGS)))
def test_value_is_found_through_any_encoding(encoding: bytes, encode: object) -> None:
    assert callable(encode)
    content = encode(body({"usage": {"total_tokens": 90}}))
    assert value(["/usage/total_tokens"], JSON, pieces(content, 3), encoding) == 90


@pytest.mark.parametrize("small_bytes", [0, 64 * 1024])
def test_last_text_that_has_a_value_wins(small_bytes: int) -> None:
    documents = [{"u": 1}, {"u": 5}, {"u": None}, {"x": 1}]
    for content_type, content in ((SSE, events(*documents)), (NDJSON, lines(*documents)), (JSON, array(*documents))):
        assert value(["/u"], content_type, [content], small_bytes=small_bytes) == 5


@pytest.mark.parametrize("size", [1, 10**6])
def test_value_of_nothing_replaces_no_more(size: int) -> None:
    for content in (events({"u": 5}, {"u": 0}), events({"u": [1]}, {"u": []}), events({"u": "x"}, {"u": ""})):
        first = value(["/u"], SSE, [content.partition(b"\n\n")[0]])
        assert value(["/u"], SSE, pieces(content, size)) == first
        assert value(["/u"], SSE, pieces(content.removesuffix(b"\n\n"), size)) == first


@pytest.mark.parametrize("small_bytes", [0, 64 * 1024])
def test_root_array_is_reached_by_index_and_by_length(small_bytes: int) -> None:
    content = array({"u": 1}, {"u": 5}, [7, 8])
    for pointers, expected in ((["/0/u"], 1), (["/1/u"], 5), (["/2/1"], 8), ([""], 3), (["/9/u", "/u"], 5)):
        assert value(pointers, JSON, [content], small_bytes=small_bytes) == expected


@pytest.mark.parametrize("content_type", [b"", b"text/plain", b"application/octet-stream"])
@pytest.mark.parametrize("content", [b'{"u":1}', b'data: {"u":2}\n\ndata: {"u":1}\n\n'])
@pytest.mark.parametrize("size", [1, 10**6])
def test_value_is_found_where_the_type_does_not_tell(content_type: bytes, content: bytes, size: int) -> None:
    assert value(["/u"], content_type, pieces(content, size)) == 1


@pytest.mark.parametrize(
    ("content_type", "encoding", "content"),
    [
        (b"text/html", b"", b"<p>"),
        (b"", b"", b"<p>"),
        (b"text/plain", b"", b'{"u":oops}'),
        (JSON, b"unknown", b'{"u":1}'),
        (JSON, b"gzip", b'{"u":1}'),
        (JSON, b"", b'{"x":'),
        (JSON, b"", b"\x00\xff"),
        (SSE, b"", b"data: [DONE]\n\n"),
    ],
)
def test_what_cannot_be_read_has_no_value(content_type: bytes, encoding: bytes, content: bytes) -> None:
    assert value(["/u"], content_type, [content], encoding) is None


def test_text_that_looks_like_the_member_never_counts() -> None:
    trap = json.dumps({"text": '"usage":{"total_tokens":0}', "x": {"usage": {"total_tokens": 1}}}).encode()
    assert value(["/usage/total_tokens"], JSON, [trap]) is None


@pytest.mark.parametrize(
    ("value", "is_error"),
    [("false", False), ('""', False), ("[]", False), ("null", False), ('"x"', True), ('{"code": 1}', True)],
)
def test_error_pointer_finds_an_error_only_where_there_is_one(value: str, is_error: bool) -> None:
    meter = open_meter(Price(Decimal(5), error_pointer="/error"), b"application/json", b"")
    assert meter is not None
    meter.feed(b'{"error": %b}' % value.encode())
    assert meter.reading().is_error is is_error


@pytest.mark.parametrize("later", ["false", '""', "[]", "0", "null"])
def test_error_of_a_stream_stays_one_whatever_follows(later: str) -> None:
    meter = open_meter(Price(Decimal(5), error_pointer="/error"), SSE, b"")
    assert meter is not None
    meter.feed(b'data: {"error": {"code": 1}}\n\ndata: {"done": true, "error": %b}\n\n' % later.encode())
    assert meter.reading().is_error
