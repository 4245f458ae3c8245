"""Where the body of a message ends (RFC 9112 section 6.3), as far as both ends agree."""

from __future__ import annotations

import re
from enum import Enum


class Framing(Enum):
    """What ends a body."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


BODILESS_STATUSES = frozenset((204, 304))  # as is any response to HEAD

# RFC 9112 section 6.3 asks to refuse what overflows: eighteen digits fit 64 bits and are an exabyte.
is_content_length = re.compile(rb"[0-9]{1,18}").fullmatch


def is_chunked(codings: bytes) -> bool:
    """Whether `chunked` is the one transfer coding: no other is implemented."""
    return codings.strip(b" \t").lower() == b"chunked"
