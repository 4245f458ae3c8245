"""Readers keep little of a response, whatever its size and wherever its usage stands."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

from gateway.proxy.metering.readers import READERS
from gateway.proxy.metering.readers.reader import WholeDocument
from gateway.proxy.metering.readers.response import ResponseReader
from policies.usage.counts import UsageClass

MAX_KEPT_BYTES = 1024 * 1024
PIECE = 64 * 1024
NUMBERS = b"0.125," * (PIECE // 6)
IMAGE = b"QUJD" * (PIECE // 4)
USAGE = b'"usage":{"input_tokens":7,"output_tokens":11,"total_tokens":18}'


def document(mebibytes: int) -> Iterator[bytes]:
    """Embeddings, whose usage comes after all vectors."""
    yield b'{"object":"list","model":"m","data":[{"embedding":['
    for _ in range(mebibytes * 2**20 // len(NUMBERS)):
        yield NUMBERS
    yield b'0]}],"usage":{"prompt_tokens":7,"total_tokens":7}}'


def event(mebibytes: int) -> Iterator[bytes]:
    """A picture in one event, with its usage behind it."""
    yield b'event: image_generation.completed\ndata: {"type":"image_generation.completed","b64_json":"'
    for _ in range(mebibytes * 2**20 // len(IMAGE)):
        yield IMAGE
    yield b'",' + USAGE + b"}\n\n"


def peak_of(reader: ResponseReader | WholeDocument, chunks: Iterator[bytes]) -> int:
    """The most memory that reading takes, in bytes, with the chunk that is read."""
    tracemalloc.start()
    try:
        for chunk in chunks:
            reader.feed(bytes(bytearray(chunk)))  # bytes of its own, which are seen if they are kept
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_document_of_64_mebibytes_is_read_to_its_end_in_little_memory() -> None:
    reader = READERS["openai"].open_response(b"application/json", b"")
    assert peak_of(reader, document(64)) < MAX_KEPT_BYTES
    usage = reader.reading().usage
    assert usage is not None
    assert usage.counts[UsageClass.INPUT] == 7


def test_event_of_32_mebibytes_is_read_to_its_end_in_little_memory() -> None:
    reader = READERS["openai"].open_response(b"text/event-stream", b"")
    assert peak_of(reader, event(32)) < MAX_KEPT_BYTES
    usage = reader.reading().usage
    assert usage is not None
    assert usage.counts == {UsageClass.INPUT: 7, UsageClass.OUTPUT: 11}
