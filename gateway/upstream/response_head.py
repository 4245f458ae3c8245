"""The head of a response, and the meaning of its fields for the connection and the framing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from gateway.http.fields import HOP_BY_HOP, Header
from gateway.http.framing import is_chunked
from gateway.upstream.errors import invalid

# `content-length` is put back where it frames.
CONNECTION_FIELDS = HOP_BY_HOP | {b"content-length"}
_KEEP_ALIVE_TIMEOUT = re.compile(rb"timeout=([0-9]{1,6})", re.IGNORECASE)


@dataclass(slots=True)
class ResponseHead:
    """A final head. `raw` is empty where the same bytes could be read differently.

    The consumer may keep in `consumer_value` what it derives from the fields.
    """

    raw: bytes
    status: int
    headers: list[Header]
    length: int
    keep_alive: bool
    keep_alive_seconds: int | None
    consumer_value: object | None = None


def require_chunked(coding: bytes, version: str, length: bytes | None) -> None:
    """Raises UpstreamError for any other coding, and for one beside a length."""
    if length is not None:
        raise invalid("the response has both Content-Length and Transfer-Encoding")
    if version != "1.1" or not is_chunked(coding):
        raise invalid("the response has a Transfer-Encoding other than chunked")


@lru_cache(maxsize=64)
def keep_alive_seconds(value: bytes) -> int | None:
    """The server's own idle limit, as `Keep-Alive: timeout=5` tells it (RFC 2068 section 19.7.1)."""
    found = _KEEP_ALIVE_TIMEOUT.search(value)
    return int(found.group(1)) if found else None
