"""Requests: what they ask for is read where the API puts it, and what parsers disagree about is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.fields import header_block
from gateway.proxy.metering.documents.selection import select
from gateway.proxy.metering.readers import READERS
from gateway.proxy.metering.readers.reading import RequestReading
from gateway.proxy.metering.strict_json import MAX_DEPTH, read_fields
from policies.model import Refusal, Refused
from tests.proxy.metering.wire import JSON, body

CHAT = "/v1/chat/completions"
FORM = b"multipart/form-data; boundary=edge"


def form(*parts: tuple[str, bytes], content_type: str = "") -> bytes:
    texts = [
        f"--edge\r\nContent-Disposition: form-data; {name}\r\n{content_type}\r\n".encode() + value + b"\r\n"
        for name, value in parts
    ]
    return b"".join(texts) + b"--edge--\r\n"


def ask(name: str, path: str, document: object) -> RequestReading:
    return READERS[name].read_request(path, JSON, document if isinstance(document, bytes) else body(document))


OPENAI: list[tuple[str, dict[str, Any], RequestReading]] = [
    (CHAT, {"model": "m", "messages": []}, RequestReading("m")),
    (CHAT, {"model": "m", "max_tokens": 9, "n": 3}, RequestReading("m", 9, answers=3)),
    (CHAT, {"model": "m", "max_tokens": 9, "max_completion_tokens": 20, "n": None}, RequestReading("m", 20)),
    (CHAT, {"model": "m", "max_tokens": -1}, RequestReading("m")),
    (CHAT, {"model": "m", "models": None}, RequestReading("m")),
    (CHAT, {"model": "m", "models": ["m", "b"]}, RequestReading("m", alternatives=("m", "b"))),
    (CHAT, {"model": "m", "max_tokens": 9.0}, RequestReading("m", 9)),
    (CHAT, {"model": "m", "stream": True}, RequestReading("m", None, True, True)),
    (CHAT, {"model": "m", "stream": True, "stream_options": {}}, RequestReading("m", None, True, True)),
    (CHAT, {"model": "m", "stream": True, "stream_options": {"include_usage": False}},
     RequestReading("m", None, True, True)),
    (CHAT, {"model": "m", "stream": True, "stream_options": {"include_usage": True}}, RequestReading("m", None, True)),
    ("/v1/completions", {"model": "m", "max_tokens": 5, "n": 2, "best_of": 4}, RequestReading("m", 5, answers=4)),
    ("/v1/responses", {"model": "m", "max_output_tokens": 7, "stream": True}, RequestReading("m", 7, True)),
    ("/v1/responses", {"model": "m", "background": True}, RequestReading("m", is_deferred=True)),
    ("/v1/responses", {"model": "m", "background": False}, RequestReading("m")),
    ("/v1/images/generations", {"model": "m", "background": "transparent"}, RequestReading("m")),
    ("/v1/responses/input_tokens", {"model": "m", "input": "x"}, RequestReading(is_free=True)),
    ("/v1/batches", {"input_file_id": "f"}, RequestReading(is_deferred=True)),
    ("/v1/embeddings", {"model": "e", "input": ["x"]}, RequestReading("e", 0)),
    ("/v1/images/generations", {"model": "gpt-image-1", "n": 2}, RequestReading("gpt-image-1", answers=2)),
    ("/openai/deployments/my%20gpt/chat/completions", {"messages": []}, RequestReading("my gpt")),
]  # fmt: skip


@pytest.mark.parametrize(("path", "document", "expected"), OPENAI)
def test_openai_request_is_read(path: str, document: dict[str, Any], expected: RequestReading) -> None:
    assert ask("openai", path, document) == expected


@pytest.mark.parametrize(
    ("reader", "path", "document", "expected"),
    [
        ("anthropic", "/v1/messages", {"model": "c", "max_tokens": 9, "stream": True}, RequestReading("c", 9, True)),
        ("anthropic", "/v1/messages/batches", {"requests": []}, RequestReading(is_deferred=True)),
        ("anthropic", "/v1/messages/count_tokens", {"model": "c"}, RequestReading("c", 0, is_free=True)),
        (
            "gemini",
            "/v1beta/models/gemini-3:generateContent",
            {"contents": [], "generationConfig": {"maxOutputTokens": 10, "candidateCount": 2}},
            RequestReading("gemini-3", 10, answers=2),
        ),
        (
            "gemini",
            "/v1beta/models/gemini-3:generateContent",
            {"generation_config": {"max_output_tokens": 10}},
            RequestReading("gemini-3", 10),
        ),
        (
            "gemini",
            "/v1beta/models/gemini-3:generateContent",
            {"generationConfig": {"candidateCount": 2}},
            RequestReading("gemini-3", answers=2),
        ),
        ("gemini", "/v1/models/g:streamGenerateContent", {}, RequestReading("g", None, True)),
        ("gemini", "/v1beta/models/g:countTokens", {}, RequestReading("g", 0, is_free=True)),
        ("gemini", "/v1beta/models/e:embedContent", {}, RequestReading("e", 0)),
        ("gemini", "/v1beta/models/g:batchGenerateContent", {}, RequestReading("g", is_deferred=True)),
        (
            "gemini",
            "/v1/projects/p/locations/l/publishers/google/models/g:generateContent",
            {},
            RequestReading("g"),
        ),
        (
            "bedrock",
            "/model/arn%3Aaws%3Abedrock%3A%3A%3Ax%2Fclaude/converse",
            {"inferenceConfig": {"maxTokens": 5}},
            RequestReading("arn:aws:bedrock:::x/claude", 5),
        ),
        ("bedrock", "/model/m/count-tokens", {"input": {}}, RequestReading(is_free=True)),
        ("bedrock", "/model/m/converse-stream", {}, RequestReading("m", None, True)),
        ("bedrock", "/model/m/invoke", {"max_tokens": 6}, RequestReading("m", 6)),
        ("bedrock", "/model/m/invoke-with-response-stream", {"max_gen_len": 7}, RequestReading("m", 7, True)),
        ("ollama", "/api/chat", {"model": "l"}, RequestReading("l", None, True)),
        ("ollama", "/api/generate", {"model": "l", "stream": False, "options": {"num_predict": 5}},
         RequestReading("l", 5)),
        ("ollama", "/api/chat", {"model": "l", "options": {"num_predict": -1}}, RequestReading("l", None, True)),
        ("ollama", "/api/embed", {"model": "l"}, RequestReading("l", 0)),
        ("mcp", "/mcp", {"method": "tools/call", "params": {"name": "search"}}, RequestReading("search", 0)),
        ("mcp", "/mcp", {"method": "initialize", "params": {}}, RequestReading(is_free=True)),
        ("mcp", "/mcp", {"id": 1, "result": {}}, RequestReading(is_free=True)),
    ],
)  # fmt: skip
def test_request_is_read(reader: str, path: str, document: dict[str, Any], expected: RequestReading) -> None:
    assert ask(reader, path, document) == expected


@pytest.mark.parametrize("reader", READERS)
def test_request_without_body_asks_for_nothing(reader: str) -> None:
    reading = READERS[reader].read_request("/v1/models", b"", b"")
    assert (reading.model, reading.max_output, reading.is_retrieval) == (None, None, False)


@pytest.mark.parametrize(
    ("path", "is_stored"),
    [
        ("/v1/responses/resp_1", True),
        ("/v1/responses/resp_1/input_items", True),
        ("/v1/chat/completions/chatcmpl-1", True),
        ("/v1/responses", False),
        ("/v1/chat/completions/", False),
        ("/v1/mine", False),
    ],
)
def test_openai_request_without_body_for_what_is_stored_is_a_retrieval(path: str, is_stored: bool) -> None:
    assert READERS["openai"].read_request(path, b"", b"") == RequestReading(is_retrieval=is_stored)


@pytest.mark.parametrize("document", [{}, {"n": 1}])
@pytest.mark.parametrize("reader", ["openai", "anthropic", "ollama"])
def test_request_without_model_has_none(reader: str, document: dict[str, Any]) -> None:
    assert ask(reader, CHAT, document).model is None


def test_usage_option_is_needed_only_where_it_is_taken_and_not_set() -> None:
    assert ask("openai", CHAT, {"stream": True}).needs_usage_option
    assert not ask("openai", CHAT, {"stream": True, "stream_options": {"include_usage": True}}).needs_usage_option
    assert not ask("openai", CHAT, {"stream": False}).needs_usage_option
    assert not ask("openai", "/v1/responses", {"stream": True}).needs_usage_option


def test_form_is_read_by_its_fields() -> None:
    content = form(
        ('name="file"; filename="model"', b"\x00\xff" * 100_000),
        ('name="model"', b"gpt-4o-transcribe"),
        ('name="stream"', b"true"),
        ('name="response_format"', b"srt"),
    )
    expected = RequestReading("gpt-4o-transcribe", None, True)
    assert READERS["openai"].read_request("/v1/audio/transcriptions", FORM, content) == expected


@pytest.mark.parametrize(
    "content",
    [
        form(('name="model"', b"a"), ('name="model"', b"b")),
        form(('name="Model"', b"a")),
        form(('name="model"', b"a"), ('name="MODEL"', b"b")),
        form(('name="model"; name="x"', b"b"), ('name="model"', b"a")),
        form(('name="x"; name="model"', b"a")),
        form(("name*=utf-8''model", b"b"), ('name="model"', b"a")),
        form(('name*0="mod"; name*1="el"', b"b"), ('name="model"', b"a")),
        form(('filename="\\"; name="model"', b"b"), ('name="model"', b"a")),
        form(("name='model'", b"b"), ('name="model"', b"a")),
        form(('name="model', b"b"), ('name="model"', b"a")),
        form(('name="mod\\el"', b"b"), ('name="model"', b"a")),
        form(('name="model "', b"b"), ('name="model"', b"a")),
        form(('name="%6dodel"', b"b"), ('name="model"', b"a")),
        form(('name="=?utf-8?q?model?="', b"b"), ('name="model"', b"a")),
        form(('name="model"\r\nContent-Disposition: form-data; name="x"', b"b"), ('name="model"', b"a")),
        form(('name="model"', b"=61"), content_type="Content-Transfer-Encoding: quoted-printable\r\n"),
        form(('name="model"', b"YQ=="), content_type="Content-Transfer-Encoding: BASE64\r\n"),
        form(('name="model"', b"+AGE-"), content_type="Content-Type: text/plain; charset=utf-7\r\n"),
        form(('name="model"', b"\xff")),
        form(('name="model"', b"x" * 5000)),
        form(('name="stream"', b"maybe")),
        form(('name="n"', b"many")),
        b"--other\r\n",
        b"",
        b'{"model":"m"}',
    ],
)
def test_ambiguous_form_is_refused(content: bytes) -> None:
    refuse("openai", content or b" ", content_type=FORM)


@pytest.mark.parametrize("more", [b"; boundary=other", b'; Boundary="other"', b"; boundary*=utf-8''other"])
def test_form_of_two_boundaries_is_refused(more: bytes) -> None:
    for boundary in (b"edge", b"other"):
        content = form(('name="model"', b"a")).replace(b"--edge", b"--" + boundary)
        refuse("openai", content, content_type=FORM + more)


@pytest.mark.parametrize(
    "header",
    [
        "Content-Transfer-Encoding: 8bit",
        "Content-Transfer-Encoding: Binary",
        "Content-Type: text/plain; charset=ISO-8859-1",
        'Content-Type: text/plain; charset="UTF-8"',
    ],
)
def test_form_may_say_that_its_fields_are_plain(header: str) -> None:
    content = form(('name="model"', b"a"), content_type=f"{header}\r\n")
    assert READERS["openai"].read_request("/v1/audio/transcriptions", FORM, content) == RequestReading("a")


def test_form_may_have_any_file_name() -> None:
    for name in ('"name=model"', '"; name=model"', "\"a.wav\"; filename*=utf-8''%C3%A9.wav", '"a\\"b.wav"', '"é"'):
        content = form((f'name="file"; filename={name}', b"x"), ('name="model"', b"a"))
        assert READERS["openai"].read_request("/v1/audio/transcriptions", FORM, content) == RequestReading("a")


def refuse(reader: str, content: bytes, *, path: str = CHAT, content_type: bytes = JSON) -> None:
    with pytest.raises(Refused) as refused:
        READERS[reader].read_request(path, content_type, content)
    assert refused.value.code is Refusal.INVALID_BODY


@pytest.mark.parametrize(
    ("query", "mask"),
    [
        (b"fields=candidates", b""),
        (b"alt=sse&%24fields=candidates", b""),
        (b"fields=usageMetadata/promptTokenCount", b""),
        (b"fields=usageMetadata(promptTokenCount),candidates", b""),
        (b"fields=candidates(usageMetadata,content)", b""),
        (b"alt=proto", b""),
        (b"$alt=proto", b""),
        (b"alt=json&alt=media", b""),
        (b"callback=run", b""),
        (b"", b"candidates.content"),
    ],
)
def test_gemini_response_without_its_usage_is_refused(query: bytes, mask: bytes) -> None:
    fields = header_block(b"x-goog-fieldmask: %b\r\n" % mask if mask else b"")
    with pytest.raises(Refused) as refused:
        READERS["gemini"].check_parameters(query, fields)
    assert refused.value.code is Refusal.BAD_REQUEST
    READERS["openai"].check_parameters(query, fields)


@pytest.mark.parametrize(
    ("query", "mask"),
    [
        (b"", b""),
        (b"alt=sse&prettyPrint=false", b""),
        (b"$alt=json;enum-encoding=int", b""),
        (b"fields=candidates(content,finishReason),usageMetadata", b""),
        (b"fields=*", b"usage_metadata,candidates"),
    ],
)
def test_gemini_response_with_its_usage_may_be_filtered(query: bytes, mask: bytes) -> None:
    READERS["gemini"].check_parameters(query, header_block(b"a: b\r\nx-goog-fieldmask: %b\r\n" % (mask or b"*")))


def nested(depth: int) -> bytes:
    return b'{"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


AMBIGUOUS = [
    b'{"model":"a","model":"b"}',
    b'{"model":"a","Model":"b"}',
    b'{"Model":"b"}',
    b'{"model":"a","\\u006dodel":"b"}',
    b'{"model":"a","\xc5\xbftream":true}',
    b'{"model":"a","unread":1,"unread":2}',
    b'{"model":"a","unread":1,"UNREAD":2}',
    b'{"stream_options":{"include_usage":true,"include_usage":false}}',
    b'{"stream_options":{},"stream_options":{"include_usage":false}}',
    b'{"stream_options":{"Include_usage":false}}',
    b'{"model":"a","x":NaN}',
    b'{"model":"a","x":[-Infinity]}',
    b'\xef\xbb\xbf{"model":"a"}',
    b'{"model":"\xff"}',
    b'{"model":"\xed\xa0\x80"}',
    '{"model":"a"}'.encode("utf-16"),
    '{"model":"a"}'.encode("utf-16-le"),
    '{"model":"a"}'.encode("utf-32"),
    b'{"model":"a"} {}',
    b'{"model":"a"',
    b'{"model":"a",}',
    b"{\"model\":'a'}",
    b'{"model":"a\n"}',
    b'{"model":"\\x"}',
    b'{"a":01}',
    b'{"a":1.}',
    b'{"a":+1}',
    b"[]",
    b'["model"]',
    b'"model"',
    b"1",
    b"null",
    b"nothing",
    b"   ",
    nested(MAX_DEPTH + 1),
    nested(MAX_DEPTH + 2),
    nested(10_000),
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"model":5}',
    b'{"stream":"true"}',
    b'{"stream":1}',
    b'{"max_tokens":"100"}',
    b'{"max_tokens":1.5}',
    b'{"max_tokens":1e999}',
    b'{"max_tokens":true}',
    b'{"n":[2]}',
    b'{"model":"a","models":["b",5]}',
    b'{"model":"a","models":{"0":"b"}}',
    b'{"model":"a","models":true}',
    b'{"model":"a","models":"b"}',
    b'{"model":"a","models":[%b"b"]}' % (b'"a",' * 16),
    b'{"model":"a","Models":["b"]}',
    b'{"stream_options":{"include_usage":"yes"}}',
]


@pytest.mark.parametrize("content", AMBIGUOUS, ids=range(len(AMBIGUOUS)))
@pytest.mark.parametrize("padding", [b"", b" " * 70_000], ids=["small", "large"])
def test_ambiguous_body_is_refused(content: bytes, padding: bytes) -> None:
    refuse("openai", content + padding)


@pytest.mark.parametrize("small_bytes", [0, 10**6])
@pytest.mark.parametrize(
    "content",
    [
        nested(MAX_DEPTH),
        b'{"x":{"a":1,"a":2,"A":3},"model":"m"}',
        '{"größe":1,"\u2028":"\u00e9😀"}'.encode(),
        b'{"x":"\\ud83d"}',
        b' \r\n\t{ "x" : [ 1 , -0.5e+3 , "\\u0000\\/" , true , false , null , { } , [ ] ] } \n',
        b"{}",
    ],
)
def test_unambiguous_body_is_taken(content: bytes, small_bytes: int) -> None:
    found = read_fields(content, select("model", "stream"), small_bytes=small_bytes)
    assert found == {name: value for name, value in json.loads(content).items() if name in ("model", "stream")}


@pytest.mark.parametrize(
    ("reader", "path", "content"),
    [
        ("gemini", "/models/g:generateContent", b'{"generationConfig":{},"GenerationConfig":{}}'),
        (
            "gemini",
            "/models/g:generateContent",
            b'{"generationConfig":{"maxOutputTokens":1},"generation_config":{"maxOutputTokens":9}}',
        ),
        ("bedrock", "/model/m/converse", b'{"inferenceConfig":{"maxTokens":1,"maxtokens":9}}'),
        ("mcp", "/mcp", b'{"method":"ping","method":"tools/call","params":{"name":"x"}}'),
        ("mcp", "/mcp", b'{"method":"tools/call","params":{"name":"a","Name":"b"}}'),
        ("mcp", "/mcp", b'{"method":"tools/call","params":{}}'),
        ("mcp", "/mcp", b'[{"method":"tools/call","params":{"name":"x"}}]'),
    ],
)
def test_ambiguous_body_is_refused_by_every_reader(reader: str, path: str, content: bytes) -> None:
    refuse(reader, content, path=path)


_names = st.sampled_from(["model", "Model", "stream", "x", "X", "a\u0301", "\u017ftream", "n"])
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_names, inner, max_size=4)),
    max_leaves=12,
)


@settings(derandomize=True, max_examples=500)
@given(st.lists(st.tuples(_names, _values), max_size=5), st.sampled_from([None, 1]))
def test_verdict_does_not_depend_on_size(members: list[tuple[str, object]], indent: int | None) -> None:
    text = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value, indent=indent)}" for name, value in members) + "}"
    selection = select("model", "n", "x/model", spans=("stream",))
    verdicts: list[object] = []
    for small_bytes in (0, 10**6):
        try:
            verdicts.append(sorted(read_fields(text.encode(), selection, small_bytes=small_bytes)))
        except Refused as refused:
            verdicts.append(refused.code)
    assert verdicts[0] == verdicts[1]
