"""Where a request carries its API key; and how keys are found, so that none is forwarded or recorded.

A key is recognised by its form (`gw_live_` and 36 letters and digits), also where it is percent-encoded. Keys that were
imported from other systems have no form of the gateway's: they are taken from header fields alone.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from policies.access.keys import CHECKSUM_LENGTH, RANDOM_LENGTH
from policies.model import Refusal, Refused

# The clients of OpenAI send the key of a WebSocket so, because browsers set no header fields there.
SUBPROTOCOL = b"openai-insecure-api-key."
REDACTED = "[key]"

_BEARER, _BASIC = b"bearer ", b"basic "
_LETTERS = RANDOM_LENGTH + CHECKSUM_LENGTH


class KeyForm:
    """The form of the gateway's keys. `query_name` is the query parameter that may carry one."""

    __slots__ = ("_find", "_find_encoded", "_redact", "_start", "_text_start", "is_query_allowed", "query_name")

    def __init__(self, prefix: str = "gw", query_name: str | None = None) -> None:
        """Without `query_name` no route takes a key from its query, but those of WebSockets do, as `key`."""
        self.is_query_allowed = query_name is not None
        self.query_name = (query_name or "key").encode()
        self._text_start = f"{prefix}_live_"
        self._start = self._text_start.encode()
        spellings = "".join(f"(?:{letter}|%(?i:{ord(letter):02x}))" for letter in self._text_start)
        encoded = f"{spellings}(?:[0-9A-Za-z]|%[3-7][0-9A-Fa-f]){{{_LETTERS}}}"
        self._find = re.compile(self._start + b"[0-9A-Za-z]{%d}" % _LETTERS)
        self._find_encoded = re.compile(encoded.encode())
        self._redact = re.compile(encoded)

    @property
    def longest(self) -> int:
        """The most bytes that a key takes, with each of them percent-encoded."""
        return 3 * (len(self._start) + _LETTERS)

    def is_in(self, value: bytes) -> bool:
        """Whether a key stands in the value, in any spelling."""
        if self._start in value and self._find.search(value) is not None:
            return True
        return b"%" in value and self._find_encoded.search(value) is not None

    def is_in_plain(self, content: bytes) -> bool:
        """Whether a key stands in content that knows no percent-encoding; fast for large ones."""
        return self._start in content and self._find.search(content) is not None

    def is_claimed(self, value: bytes) -> bool:
        """Whether the value can be meant for nobody but the gateway: a key, or a mistyped one."""
        return value.startswith(self._start)

    def redacted(self, text: str) -> str:
        """The text with `[key]` in place of each key."""
        return self._redact.sub(REDACTED, text) if self._text_start in text or "%" in text else text


DEFAULT_FORM = KeyForm()


class SentKeys(NamedTuple):
    """The keys of a request by where they stand: those of the gateway's form, and other values of the key fields."""

    in_fields: frozenset[bytes] = frozenset()
    in_query: frozenset[bytes] = frozenset()
    in_subprotocols: frozenset[bytes] = frozenset()
    others: frozenset[bytes] = frozenset()

    def choose(self, *, takes_query: bool, takes_subprotocol: bool) -> bytes:
        """The key of the request; raises Refused if there is none where one may stand, or two that differ."""
        found = self.in_fields | self.in_query | self.in_subprotocols or self.others
        if len(found) > 1:
            raise Refused(Refusal.BAD_REQUEST, "The request carries different API keys; send one.")
        for key in found:
            if (
                key in self.in_fields
                or key in self.others
                or (takes_query and key in self.in_query)
                or (takes_subprotocol and key in self.in_subprotocols)
            ):
                return key
        raise Refused(Refusal.MISSING_KEY, "Send your API key as 'Authorization: Bearer KEY' or as 'X-API-Key: KEY'.")


class KeyField(NamedTuple):
    """A field of KEY_FIELDS. `key` is what it gives as a key: None for another scheme of Authorization, or nothing."""

    name: bytes
    value: bytes
    key: bytes | None
    is_forwardable: bool  # to an upstream that takes credentials of its own from clients, unless `key` is the key


def read_key_field(name: bytes, value: bytes, form: KeyForm) -> KeyField:
    if name != b"authorization":
        return KeyField(name, value, value or None, not form.is_in(value))
    if value[:7].lower() == _BEARER:
        return KeyField(name, value, value[len(_BEARER) :].strip() or None, not form.is_in(value))
    return KeyField(name, value, None, not form.is_in(value) and not form.is_in(_decode_basic(value)))


def _decode_basic(value: bytes) -> bytes:
    """The user and password of Basic authorization (RFC 7617), in which clients also send keys."""
    if value[:6].lower() != _BASIC:
        return b""
    try:
        return b64decode(value[len(_BASIC) :].strip() + b"==")
    except binascii.Error:
        return b""


def sort_keys(
    key_fields: list[KeyField], form: KeyForm, *, in_query: frozenset[bytes], in_subprotocols: frozenset[bytes]
) -> SentKeys:
    sent = {field.key for field in key_fields if field.key is not None}
    in_fields = frozenset(key for key in sent if form.is_claimed(key))
    return SentKeys(in_fields, in_query, in_subprotocols, frozenset(sent - in_fields))


def take_from_query(query: bytes, form: KeyForm) -> tuple[bytes, frozenset[bytes]]:
    """The query without the parameters that hold a key, and the keys that stand in the parameter meant for them."""
    kept, keys = [], set()
    for parameter in query.split(b"&"):
        if not form.is_in(parameter):
            kept.append(parameter)
            continue
        name, _, value = parameter.partition(b"=")
        key = unquote_to_bytes(value)
        if name == form.query_name and form.is_claimed(key):
            keys.add(key)
    return b"&".join(kept), frozenset(keys)


def take_from_subprotocols(value: bytes, form: KeyForm) -> tuple[bytes, frozenset[bytes]]:
    """A Sec-WebSocket-Protocol without the members that hold a key, and the keys that stand as OpenAI's clients do."""
    members = [member.strip(b" \t") for member in value.split(b",")]
    keys = (member.removeprefix(SUBPROTOCOL) for member in members if member.startswith(SUBPROTOCOL))
    kept = [member for member in members if not form.is_in(member)]
    return b", ".join(kept), frozenset(key for key in keys if form.is_claimed(key))
