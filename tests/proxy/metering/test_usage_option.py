"""Asking for usage: the option is set, and not a byte beside it changes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.proxy.metering.usage_option import ask_for_usage

ASKED = b'{"include_usage":true}'


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"m"}', b'{"stream_options":{"include_usage":true},"model":"m"}'),
        (b" \n{ } ", b' \n{"stream_options":{"include_usage":true} } '),
        (b'{"a":1 , "stream_options" : null}', b'{"a":1 , "stream_options" : ' + ASKED + b"}"),
        (b'{"stream_options":{}}', b'{"stream_options":' + ASKED + b"}"),
        (b'{"stream_options":{ \t}}', b'{"stream_options":{"include_usage":true \t}}'),
        (
            b'{"stream_options": {"include_obfuscation":false}}',
            b'{"stream_options": {"include_usage":true,"include_obfuscation":false}}',
        ),
        (b'{"stream_options":{"include_usage" : false, "x":1}}', b'{"stream_options":{"include_usage" : true, "x":1}}'),
        (b'{"stream_options":{"include_usage":null}}', b'{"stream_options":' + ASKED + b"}"),
        (b'{"stream\\u005foptions":{}}', b'{"stream\\u005foptions":' + ASKED + b"}"),
        (
            b'{"stream_options":{"include_\\u0075sage":false}}',
            b'{"stream_options":{"include_\\u0075sage":true}}',
        ),
        (
            b'{"x":{"stream_options":{}},"y":"stream_options"}',
            b'{"stream_options":{"include_usage":true},"x":{"stream_options":{}},"y":"stream_options"}',
        ),
        (b'{"stream_options":{"include_usage":true}}', None),
        (b'{"stream_options":{"x":{"include_usage":false},"include_usage":true}}', None),
        (b'{"stream_options":5}', None),
        (b'{"stream_options":', None),
        (b"[]", None),
        (b"", None),
    ],
)
def test_option_is_merged_where_it_stands(body: bytes, expected: bytes | None) -> None:
    assert ask_for_usage(body) == expected


_values = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=5)),
    lambda inner: st.dictionaries(st.sampled_from(["stream_options", "include_usage", "x"]), inner, max_size=3),
    max_leaves=6,
)
_options = st.one_of(
    st.none(),
    st.dictionaries(st.sampled_from(["include_usage", "include_obfuscation"]), st.one_of(st.none(), st.booleans())),
)


@settings(derandomize=True, max_examples=500)
@given(
    st.dictionaries(st.sampled_from(["model", "messages", "é"]), _values),
    st.one_of(st.just(...), _options),
    st.sampled_from([None, 2]),
)
def test_request_differs_by_the_option_alone(request: dict[str, object], options: object, indent: int | None) -> None:
    if options is not ...:
        request = {**request, "stream_options": options}
    edited = ask_for_usage(json.dumps(request, indent=indent).encode())
    kept = options if isinstance(options, dict) else {}
    expected = {**request, "stream_options": {**kept, "include_usage": True}}
    assert (request if edited is None else json.loads(edited)) == expected


def test_option_is_found_in_a_large_request() -> None:
    messages = ", ".join(json.dumps({"content": "x" * 1000}) for _ in range(300))
    body = f'{{"messages": [{messages}], "stream_options": {{}}}}'.encode()
    assert ask_for_usage(body) == body[:-2] + b'"include_usage":true}}'
