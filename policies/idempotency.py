"""Idempotency-Key: what is a key, what is the same request, and which ends of a call a key remembers.

draft-ietf-httpapi-idempotency-key-header-07: the value is a String of RFC 9651, in quotes. Keys without quotes, as the
clients of most payment providers send them, are the same keys.
"""

from __future__ import annotations

import hashlib
import re

from policies.model import Refusal, Refused

MAX_KEY_CHARACTERS = 255
MAX_ANSWER_BYTES = 1024 * 1024  # a longer answer is not stored
# What may be stored in a day, unless the configuration says otherwise.
MAX_STORED_BYTES_PER_ACCOUNT = 64 * 1024 * 1024
MAX_STORED_BYTES = 1024 * 1024 * 1024

_KEY = re.compile(rb'"((?:[\x20\x21\x23-\x5B\x5D-\x7E]|\\["\\])+)"|([\x21\x23-\x5B\x5D-\x7E]+)')
_ESCAPED = re.compile(rb'\\(["\\])')
# RFC 2046 section 5.1.1; it occurs in no part, so without it two uploads of the same parts are the same.
_BOUNDARY = re.compile(rb"""multipart/[^;]+;(?:[^;]+;)*[ \t]*boundary="?([^";]{1,70})"?""", re.IGNORECASE)
# What an upstream says with these it may say otherwise in a moment (RFC 9110, RFC 8470, RFC 6585).
_TRY_AGAIN = frozenset({408, 409, 425, 429})


def parse_key(field: bytes) -> bytes | None:
    """The key that the value of a header field holds, without quotes and escapes; None where it is malformed."""
    found = _KEY.fullmatch(field)
    key = b"" if found is None else found[2] or _ESCAPED.sub(rb"\1", found[1])
    return key if 1 <= len(key) <= MAX_KEY_CHARACTERS else None


def key_digest(field: bytes) -> str:
    """The digest that stands for a key, in 64 characters. Raises Refused for a malformed field."""
    key = parse_key(field)
    if key is None:
        raise Refused(
            Refusal.BAD_REQUEST,
            f"Idempotency-Key must be one key of 1 to {MAX_KEY_CHARACTERS} visible ASCII characters, in quotes or not.",
        )
    return hashlib.sha256(key).hexdigest()


def fingerprint(method: str, target: bytes, content_type: bytes, body: bytes) -> str:
    """What two requests share, in 64 characters, if and only if they are the same.

    Clients draw a new boundary each time they send a multipart body, so a boundary tells nothing.
    """
    boundary = _BOUNDARY.match(content_type)
    if boundary is not None:
        content_type = content_type.replace(boundary[1], b"")
        body = body.replace(b"--" + boundary[1], b"--")
    content = hashlib.sha256(body).digest()
    parts = (method.encode(), target, content_type, content)
    return hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).hexdigest()


def is_final(status: int | None, *, is_complete: bool, charge: int) -> bool:
    """Whether a repeat gets this end rather than being run: what was charged is, and what would come out the same.

    A call that cost nothing and has no answer, or one that asks to try again, is as if it had never been made.
    """
    if charge:
        return True
    return is_complete and status is not None and status < 500 and status not in _TRY_AGAIN
