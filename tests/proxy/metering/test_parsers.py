"""The fast parser changes nothing: a text has the value, or the refusal, that the standard library gives it."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.proxy.metering import strict_json
from gateway.proxy.metering.documents import values
from gateway.proxy.metering.documents.selection import select
from policies.model import Refused
from tests.support.sampling import scaled

SELECTION = select("model", "a", "b/a", "n", sizes=("c",), spans=("s",))

_NUMBERS = [
    "0",
    "-0",
    "-0.0",
    "1e400",
    "-1e400",
    "1e-400",
    "1E+2",
    "0.1",
    "5e-324",
    "2.2250738585072011e-308",
    "9" * 40,
]
_NUMBERS += ["1.7976931348623159e308", "9007199254740993.0", "-9223372036854775809", "18446744073709551616", "1" * 4300]
_NO_NUMBERS = ["01", "1.", ".5", "+1", "-", "NaN", "Infinity", "-Infinity", "0x1", "1_0", "1" * 4301, "\u0661"]
_STRINGS = ['""', '"a"', '"\\u0061"', '"\\ud83d\\ude00"', '"\\ud83d"', '"\\ude00\\ud83d"', '"\\u0000"', '"\\/\\b\\f"']
_STRINGS += ['"\u00e4\u2028\U0001f600"', '"\x7f"', '"a\nb"', '"\x00"', '"\\x"', '"', "'a'", '"\\ud83dx"', '"[{"']
_WORDS = ["true", "false", "null", "True", "nul", ""]
_NAMES = ['"a"', '"b"', '"c"', '"n"', '"s"', '"A"', '"model"', '"MODEL"', '"\\u0061"', '"\u017f"', '"stra\u00dfe"', "a"]
_SPACES = st.sampled_from(["", "", "", " ", "\t\r\n", "\f", "\u00a0", "/**/"])
_WRONG = [b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xef\xbb\xbf", b"\x00", b",", b"]", b"}", b'"', b"\\", b"{", b"1"]


def _object(members: list[tuple[str, str]], space: str) -> str:
    return "{" + f",{space}".join(f"{space}{name}{space}:{value}" for name, value in members) + "}"


_LEAVES = st.sampled_from([*_NUMBERS, *_NUMBERS, *_STRINGS[:8], *_STRINGS, *_WORDS[:3], *_WORDS, *_NO_NUMBERS])


def _around(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.lists(st.tuples(st.sampled_from(_NAMES), inner), max_size=4)
    arrays = st.tuples(st.lists(inner, max_size=4), _SPACES).map(lambda given: f"[{f',{given[1]}'.join(given[0])}]")
    return st.builds(_object, members, _SPACES) | arrays


_TEXTS = st.recursive(_LEAVES, _around, max_leaves=12)
_OBJECTS = st.builds(_object, st.lists(st.tuples(st.sampled_from(_NAMES), _TEXTS), max_size=5), _SPACES)


@st.composite
def _bodies(draw: st.DrawFn) -> bytes:
    body = draw(_OBJECTS | _TEXTS).encode()
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.integers(0, 3)))
        body = body[:start] + draw(st.sampled_from([b"", *_WRONG])) + body[end:]
    return body


def _deep(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


def _outcome(parse: Any, *given: Any) -> str:
    """What is read, or why nothing is; `repr` tells 1 from 1.0, and -0.0 from 0.0."""
    try:
        return repr(parse(*given))
    except Refused as refused:
        return f"refused: {refused}"
    except (ValueError, RecursionError) as fault:
        return f"{type(fault).__name__}: {fault}"


def _none(_: bytes) -> Any:
    raise ValueError("no text is plain")


def _assert_same(body: bytes) -> None:
    fast = _outcome(values.parse, body), _outcome(strict_json.read_fields, body, SELECTION)
    with patch.object(values, "parse_plain", _none), patch.object(strict_json, "parse_plain", _none):
        assert fast == (_outcome(values.parse, body), _outcome(strict_json.read_fields, body, SELECTION))


@settings(deadline=None, max_examples=scaled(suite=1_000, full=20_000))
@given(_bodies())
def test_parsers_agree_on_every_text(body: bytes) -> None:
    _assert_same(body)


@pytest.mark.parametrize("text", [*_NUMBERS, *_NO_NUMBERS, *_STRINGS, *_WORDS])
@pytest.mark.parametrize("form", ["%s", " %s ", "[%s]", '{"a":%s}', '{"n":1,"n":%s}', '{"n":{"a":1,"a":%s}}', "%s %s"])
def test_parsers_agree_on_every_value(text: str, form: str) -> None:
    _assert_same(form.replace("%s", text).encode())


@pytest.mark.parametrize("depth", [1, 63, 64, 65, 150, 199, 200, 201, 202, 1_000, 100_000 // 6])
def test_parsers_agree_at_every_depth(depth: int) -> None:
    _assert_same(_deep(depth))


def test_text_of_standard_clients_is_read_by_the_fast_parser() -> None:
    with patch.object(values, "_decoder", None), patch.object(strict_json, "_decoder", None):
        assert values.parse(b'{"usage": {"prompt_tokens": 3}}') == {"usage": {"prompt_tokens": 3}}
        assert strict_json.read_fields(b'{"model": "m", "a": 1}', SELECTION) == {"model": "m", "a": 1}
