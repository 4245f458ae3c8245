"""How bodies look on the wire: events, lines, frames, and the encodings around them."""

from __future__ import annotations

import gzip
import json
import struct
import sys
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from zlib import crc32

import brotli  # type: ignore[import-untyped] # it ships no types

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

JSON = b"application/json"
SSE = b"text/event-stream; charset=utf-8"
NDJSON = b"application/x-ndjson"
FRAMES = b"application/vnd.amazon.eventstream"


def compact(document: object) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def body(document: object) -> bytes:
    return compact(document).encode()


def events(*documents: object, end: str = "\n", last: str | None = None) -> bytes:
    """Server-sent events of documents; a pair is an event with a name."""
    texts = []
    for document in documents:
        name, data = document if isinstance(document, tuple) else ("", document)
        texts.append(f"event: {name}{end}" * bool(name) + f"data: {compact(data)}{end}{end}")
    if last is not None:
        texts.append(f"data: {last}{end}{end}")
    return "".join(texts).encode()


def lines(*documents: object) -> bytes:
    return b"".join(body(document) + b"\n" for document in documents)


def array(*documents: object) -> bytes:
    return b"[" + b",\r\n".join(body(document) for document in documents) + b"]"


def frame(payload: bytes, **headers: str) -> bytes:
    """A frame with text headers; underscores of their names stand for `:` in front and for `-` within."""
    raw = b"".join(_header(name, value) for name, value in headers.items())
    prelude = struct.pack(">II", 16 + len(raw) + len(payload), len(raw))
    message = prelude + struct.pack(">I", crc32(prelude)) + raw + payload
    return message + struct.pack(">I", crc32(message))


def event_frame(event_type: str, document: object) -> bytes:
    kinds = {"_event_type": event_type, "_content_type": "application/json", "_message_type": "event"}
    return frame(body(document), **kinds)


def chunk_frame(document: object) -> bytes:
    """A chunk of InvokeModelWithResponseStream."""
    return event_frame("chunk", {"bytes": b64encode(body(document)).decode(), "p": "abcdefgh"})


def _header(name: str, value: str) -> bytes:
    key = (":" + name[1:].replace("_", "-")).encode()
    return struct.pack(">B", len(key)) + key + struct.pack(">BH", 7, len(value)) + value.encode()


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def two_members(data: bytes) -> bytes:
    return gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])


ENCODINGS: Sequence[tuple[bytes, Callable[[bytes], bytes]]] = (
    (b"", bytes),
    (b"identity", bytes),
    (b"gzip", gzip.compress),
    (b"X-GZIP", two_members),
    (b"deflate", zlib.compress),
    (b"Deflate", raw_deflate),
    (b"br", brotli.compress),
    (b"zstd", zstd.compress),
    (b"gzip, br", lambda data: brotli.compress(gzip.compress(data))),
)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The data in pieces, cut at these places as far as it has them."""
    edges = sorted({0, len(data), *(place for place in places if place < len(data))})
    return [data[start:end] for start, end in pairwise(edges)]


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]
