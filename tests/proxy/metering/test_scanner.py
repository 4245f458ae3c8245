"""The scanner: it finds in any text, cut anywhere, what the parser of the standard library finds in the whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.proxy.metering.documents.grammar import InvalidJsonError
from gateway.proxy.metering.documents.scanner import JsonScanner
from gateway.proxy.metering.documents.selection import Fields, Selection, select
from gateway.proxy.metering.documents.values import pick
from tests.proxy.metering.wire import cut, pieces

SELECTION = select(
    "a",
    "b/c",
    "b/d/*/e",
    "é",
    sizes=("n", "s", "b/list"),
    texts=("t", "b/d/*/t"),
)
EXAMPLES = settings(derandomize=True, max_examples=500, deadline=None)

_names = st.sampled_from(["a", "b", "c", "d", "e", "n", "s", "t", "list", "é", "x", "usage", 'q"\\', ""])
_texts = st.one_of(
    st.text(max_size=12), st.sampled_from(['"a":1', "\\", '\\"', "😀é\u2028", "\x00\x1f\x7f", "}]", "\ud83d"])
)
_numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
_documents = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, _texts),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(_names, inner, max_size=6)),
    max_leaves=25,
)


@st.composite
def _written(draw: st.DrawFn) -> tuple[Any, bytes]:
    """An object and one way to write it."""
    document = draw(st.dictionaries(_names, _documents, max_size=6))
    is_ascii = draw(st.booleans()) or "\\ud83d" in json.dumps(document)
    separators = draw(st.sampled_from([(",", ":"), (" , ", "\t:\r\n")]))
    text = json.dumps(document, ensure_ascii=is_ascii, separators=separators, indent=draw(st.sampled_from([None, 1])))
    return document, text.encode()


def scan(chunks: list[bytes], selection: Selection = SELECTION) -> tuple[list[tuple[Fields, int | None]], int]:
    found: list[tuple[Fields, int | None]] = []
    scanner = JsonScanner(selection, lambda fields, index: found.append((fields, index)))
    for chunk in chunks:
        scanner.feed(chunk)
    scanner.close()
    return found, scanner.text_bytes


@EXAMPLES
@given(_written(), st.lists(st.integers(1, 400), max_size=20))
def test_scanner_finds_what_a_parser_finds(written: tuple[Any, bytes], places: list[int]) -> None:
    _, text = written
    expected: Fields = {}
    pick(json.loads(text), SELECTION, expected)
    ((found, _),), _ = scan(cut(text, places))
    assert {name: value for name, value in found.items() if value is not None} == {
        name: value for name, value in expected.items() if value is not None
    }


@pytest.mark.parametrize("place", range(1, 24))
def test_elements_before_a_cut_scalar_count_once(place: int) -> None:
    text = b'{"n":[null,1,"a",true,2]}'
    ((found, _),), _ = scan(cut(text, [place]))
    assert found["n"] == 5


@EXAMPLES
@given(_written())
def test_cuts_at_every_byte_change_nothing(written: tuple[Any, bytes]) -> None:
    _, text = written
    assert scan(pieces(text, 1)) == scan([text])


def _is_json_in_a_row(text: bytes) -> bool:
    """Whether a text is one document or several, as the scanner takes it."""
    rest = text.decode("utf-8", "replace").strip(" \t\r\n")
    try:
        while rest:
            _, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:].lstrip(" \t\r\n")
    except ValueError:
        return False
    return bool(text.strip())


@EXAMPLES
@given(_written(), st.data())
def test_text_that_is_no_json_is_told_from_json(written: tuple[Any, bytes], data: st.DataObject) -> None:
    _, text = written
    place = data.draw(st.integers(0, len(text)))
    wrong = (
        text[:place]
        + data.draw(st.sampled_from([b"", b",", b"]", b"}", b"x", b'"', b"\\", b"\n", b"1"]))
        + text[place + 1 :]
    )
    is_json = _is_json_in_a_row(wrong)
    for size in (1, 7, 10**6):
        try:
            scan(pieces(wrong, size))
            assert is_json
        except InvalidJsonError:
            assert not is_json


@pytest.mark.parametrize(
    "text",
    [
        b"[1 2]",
        b"[1,,2]",
        b"[,]",
        b"{,}",
        b'{"a"}',
        b'{"a":}',
        b"{1:2}",
        b"[1}",
        b'{"a":1]',
        b"[tru]",
        b"[01]",
        b"[.5]",
        b"[1.]",
        b"[1e]",
        b"[--1]",
        b'["\t"]',
        b'["\\u12g4"]',
        b'{"a" 1}',
        b"{}]",
        b"]",
        b"[",
        b'"',
        b'{"a":"',
    ],
)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_broken_grammar_is_refused(text: bytes, size: int) -> None:
    with pytest.raises(InvalidJsonError):
        scan(pieces(b'{"skipped":' + text + b"}", size))
    with pytest.raises(InvalidJsonError):
        scan(pieces(text, size))


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_elements_of_a_root_array_are_documents(size: int) -> None:
    found, _ = scan(pieces(b'[ {"a":1} , 5, [2], {"x":0} ,{"a":{"k":"v"}}]', size))
    assert found == [({"a": 1}, 0), ({}, 1), ({}, 2), ({}, 3), ({"a": {"k": "v"}}, 4)]


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_texts_in_a_row_are_documents(size: int) -> None:
    found, _ = scan(pieces(b'{"a":1}\n{"a":2}{"a":3} 4\n', size))
    assert found == [({"a": 1}, None), ({"a": 2}, None), ({"a": 3}, None), ({}, None)]


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize(
    "string", ["plain", "é😀", 'x"\\/\b\n', "\u0000", "😀" * 3, "\\ud83d", "a" * 40_000, "\n" * 5000]
)
@pytest.mark.parametrize("is_ascii", [True, False])
def test_characters_are_counted_as_python_counts_them(size: int, string: str, is_ascii: bool) -> None:
    text = json.dumps({"s": string}, ensure_ascii=is_ascii).encode()
    assert scan(pieces(text, size))[0] == [({"s": len(string)}, None)]


def test_lone_surrogates_count_one_character_each() -> None:
    assert scan([b'{"s":"\\ud83d\\ud83d\\ude00\\ude00"}'])[0] == [({"s": 3}, None)]


def test_duplicate_members_merge() -> None:
    found, _ = scan([b'{"a":5,"a":null,"b":{"c":1},"b":{"c":0},"a":{"x":1},"a":{"y":2}}'])
    assert found == [({"a": {"x": 1, "y": 2}, "b/c": 1}, None)]


def test_array_of_strings_is_counted_whatever_they_say() -> None:
    text = json.dumps({"n": ["a,b", "]", '"', "\\", "{,}"] * 5000}).encode()
    assert scan(pieces(text, 1000))[0] == [({"n": 25_000}, None)]
