"""Responses: each wire form is read right, however it is cut, compressed or broken off."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.proxy.metering.readers import READERS
from gateway.proxy.metering.readers.reading import ResponseReading
from gateway.proxy.metering.readers.response import ResponseReader
from policies.usage.counts import MissingReason
from tests.proxy.metering.bodies import CASES, message_start
from tests.proxy.metering.cases import Case, used
from tests.proxy.metering.openai_bodies import CHAT_USAGE, CHAT_USED, chat
from tests.proxy.metering.wire import ENCODINGS, FRAMES, JSON, SSE, chunk_frame, event_frame, events, pieces


def read(case: Case, chunks: list[bytes], encoding: bytes = b"", *, small_bytes: int = 64 * 1024) -> ResponseReading:
    reader = ResponseReader(READERS[case.reader].response, case.content_type, encoding, small_bytes=small_bytes)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.reading()


def check(case: Case, reading: ResponseReading) -> None:
    found = (reading.usage, reading.model, reading.missing, reading.is_error, reading.is_complete)
    assert found == (case.usage, case.model, case.missing, case.is_error, case.is_complete)


_named = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.reader}-{case.name}")


@_named
@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
def test_response_is_read_in_pieces_of_any_size(case: Case, size: int) -> None:
    check(case, read(case, pieces(case.body, size)))


@_named
def test_large_texts_are_read_like_small_ones(case: Case) -> None:
    reading = read(case, pieces(case.body, 13), small_bytes=40)
    check(case, reading)


@_named
@pytest.mark.parametrize("size", [1, 100, 10**6])
def test_response_is_read_the_same_where_it_is_kept_to_be_parsed_at_once(case: Case, size: int) -> None:
    reader, other = READERS[case.reader].open_response(case.content_type, b""), read(case, [])
    for chunk in pieces(case.body, size):
        reader.feed(chunk)
        other = reader.reading()
    check(case, other)
    assert other._replace(text_bytes=0) == read(case, [case.body])._replace(text_bytes=0)


@pytest.mark.parametrize(
    ("usage", "text_bytes"),
    [(b"{}", 4), (b'{"prompt_tokens":1}', 4), (b'{"prompt_tokens":1,"completion_tokens":1}', 0)],
)
def test_text_of_a_document_is_measured_only_where_its_usage_is_not_whole(usage: bytes, text_bytes: int) -> None:
    reader = READERS["openai"].open_response(JSON, b"")
    reader.feed(b'{"choices":[{"message":{"content":"text"}}],"usage":' + usage + b"}")
    assert reader.reading().text_bytes == text_bytes


@_named
@pytest.mark.parametrize(("encoding", "encode"), ENCODINGS, ids=range(len(ENCODINGS)))
def test_response_is_read_through_any_encoding(case: Case, encoding: bytes, encode: object) -> None:
    assert callable(encode)
    check(case, read(case, pieces(encode(case.body), 50), encoding))


@_named
def test_response_that_breaks_off_reports_no_more_than_the_whole(case: Case) -> None:
    whole = read(case, [case.body])
    for end in range(0, len(case.body), 3):
        part = read(case, [case.body[:end]])
        counts = part.usage.counts if part.usage is not None else {}
        assert counts.keys() <= (whole.usage.counts.keys() if whole.usage is not None else set())
        assert part.text_bytes <= whole.text_bytes


UNTOLD = [b"", b"text/plain; charset=utf-8", b"application/octet-stream"]


@pytest.mark.parametrize("content_type", UNTOLD)
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.content_type in (JSON, SSE)], ids=lambda each: each.name
)
@pytest.mark.parametrize("size", [1, 10**6])
def test_response_whose_type_does_not_tell_is_read_as_what_it_begins_as(
    content_type: bytes, case: Case, size: int
) -> None:
    reading = read(replace(case, content_type=content_type), pieces(case.body, size))
    check(case, reading)
    assert reading.text_bytes >= read(case, [case.body]).text_bytes


@pytest.mark.parametrize("content_type", UNTOLD)
@pytest.mark.parametrize("size", [1, 10**6])
@pytest.mark.parametrize(
    "content",
    [
        b"Hello, world",
        b"\xef\xbb\xbfd",
        b"  id",
        b"[1] says so",
        b"data: so it says\n\n",
        b'"text"',
        b"{oops}" * 20_000,
    ],
)
def test_response_whose_type_does_not_tell_is_text_where_it_cannot_be_read(
    content_type: bytes, size: int, content: bytes
) -> None:
    reading = read(Case("text", "openai", content_type, content, None), pieces(content, size))
    assert (reading.usage, reading.missing, reading.text_bytes) == (None, MissingReason.SHAPE, len(content))


@pytest.mark.parametrize("content", [b"", b"\xff\xfb\x90\x00", b"ID3\x03sound", b"{\x00}"])
@pytest.mark.parametrize("size", [1, 10**6])
def test_bytes_whose_type_does_not_tell_are_no_text(content: bytes, size: int) -> None:
    assert read(Case("bytes", "openai", b"", content, None), pieces(content, size)).text_bytes == 0


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 50, 10**6])
def test_events_end_as_any_line_does(end: str, size: int) -> None:
    usage = chat(None, choices=[], usage=CHAT_USAGE)
    stream = b"\xef\xbb\xbf: ping" + end.encode() * 2 + events(chat(), usage, end=end, last="[DONE]")
    case = Case(end, "openai", SSE, stream, CHAT_USED, "gpt-5.6")
    check(case, read(case, pieces(stream, size)))


@pytest.mark.parametrize("size", [1, 5, 10**6])
def test_event_data_may_have_several_lines_and_other_fields(size: int) -> None:
    stream = (
        b'id: 7\ndata: {"model": "m",\n: a comment\ndata\ndata:"usage": {"prompt_tokens": 5,\nretry: 3\n'
        b'event: x\ndata:  "completion_tokens": 6}}\n\n\n\ndata: [DONE]\n\n'
    )
    case = Case("lines", "openai", SSE, stream, used(input=5, output=6), "m")
    check(case, read(case, pieces(stream, size)))


def test_last_event_counts_without_its_blank_line() -> None:
    stream = events(chat(), chat(None, choices=[], usage=CHAT_USAGE)).rstrip(b"\n")
    case = Case("unended", "openai", SSE, stream, CHAT_USED, "gpt-5.6")
    check(case, read(case, [stream]))


def test_reading_can_be_asked_before_the_end() -> None:
    reader = READERS["anthropic"].open_response(SSE, b"")
    reader.feed(events(message_start(input_tokens=25, output_tokens=1)))
    early = reader.reading()
    assert (early.usage, early.is_complete) == (used(input=25, output=1), False)
    reader.feed(b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":9}')
    assert reader.reading().usage == used(input=25, output=9)
    reader.feed(b'}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert (reader.reading().usage, reader.reading().is_complete) == (used(input=25, output=9), True)


def test_frame_counts_only_once_its_checksum_holds() -> None:
    stream = event_frame("metadata", {"usage": {"inputTokens": 1, "outputTokens": 2}})
    reader = READERS["bedrock"].open_response(FRAMES, b"")
    reader.feed(stream[:-1])
    assert reader.reading().usage is None
    reader.feed(stream[-1:])
    assert reader.reading().usage == used(input=1, output=2)


@pytest.mark.parametrize("size", [1000, 10**6])
def test_large_frame_counts_only_once_its_checksum_holds(size: int) -> None:
    stream = event_frame("metadata", {"usage": {"inputTokens": 1, "outputTokens": 2}, "p": "x" * 100_000})
    for last, expected in ((stream[-1:], used(input=1, output=2)), (b"\0", None)):
        reader = READERS["bedrock"].open_response(FRAMES, b"")
        for piece in pieces(stream[:-1] + last, size):
            reader.feed(piece)
        assert reader.reading().usage == expected


@pytest.mark.parametrize("encoding", [b"compress", b"gzip, unknown", b"gzip, gzip, gzip, gzip"])
def test_unknown_encoding_is_said_to_be_one(encoding: bytes) -> None:
    reader = READERS["openai"].open_response(JSON, encoding)
    reader.feed(b"{}")
    assert reader.reading().missing is MissingReason.ENCODING


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"zstd"])
def test_bytes_of_another_encoding_are_said_to_be_so(encoding: bytes) -> None:
    reader = READERS["openai"].open_response(JSON, encoding)
    reader.feed(b'{"usage":{"prompt_tokens":1}}')
    assert reader.reading().missing is MissingReason.ENCODING


def test_usage_reported_before_a_broken_encoding_counts() -> None:
    stream = events(chat(), chat(None, choices=[], usage=CHAT_USAGE))
    reader = READERS["openai"].open_response(SSE, b"deflate")
    _, encode = next(entry for entry in ENCODINGS if entry[0] == b"deflate")
    compressed = encode(stream)
    reader.feed(compressed[:-4])
    reader.feed(b"\0\0\0\0")
    assert reader.reading().usage == CHAT_USED


def test_value_too_large_to_keep_is_said_to_be_so() -> None:
    reader = READERS["openai"].open_response(JSON, b"")
    reader.feed(b'{"usage":{"prompt_tokens":1,"x":"' + b"x" * 100_000 + b'"}}')
    assert reader.reading().missing is MissingReason.SIZE


def test_frame_too_large_to_keep_is_said_to_be_so() -> None:
    reader = READERS["bedrock"].open_response(FRAMES, b"")
    reader.feed(chunk_frame({"type": "message_delta", "delta": {"text": "x" * 60_000}, "usage": {"output_tokens": 5}}))
    assert (reader.reading().usage, reader.reading().missing) == (None, MissingReason.SIZE)


@pytest.mark.parametrize("small_bytes", [0, 64 * 1024])
def test_text_is_measured_in_streams_and_documents(small_bytes: int) -> None:
    content = 'é "quoted" \n'
    escaped = len('é \\"quoted\\" \\n'.encode())
    stream = Case("s", "openai", SSE, events(chat(content), chat(content), last="[DONE]"), None)
    assert read(stream, [stream.body]).text_bytes == 2 * escaped
    document = b'{"choices":[{"message":{"role":"assistant","content":"\xc3\xa9 \\"quoted\\" \\n"}}]}'
    reading = read(Case("d", "openai", JSON, document, None), [document], small_bytes=small_bytes)
    assert reading.text_bytes == escaped


def test_responses_text_is_measured_once() -> None:
    texts: list[dict[str, object]] = [
        {"type": "response.output_text.delta", "delta": "abc"},
        {"type": "response.output_text.delta", "delta": "def"},
        {"type": "response.output_text.done", "text": "abcdef"},
        {"type": "response.content_part.done", "part": {"type": "output_text", "text": "abcdef"}},
    ]
    stream = events(*((str(text["type"]), text) for text in texts))
    assert read(Case("r", "openai", SSE, stream, None), [stream]).text_bytes == 6
