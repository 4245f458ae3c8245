"""The hash chain of the audit log: each row's hash is an HMAC of the row and of the hash before it.

With the database but without the secret, nobody can change, remove, reorder or add a row undetected. Rows are numbered
without gaps, and the head seals the newest number, so missing rows at the end are detected too, unless an older head is
restored with them. An anchor, a head stored elsewhere, detects that as well.

Personal values are sealed by salted digests, which stay valid after values and salt are erased.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Any

GENESIS = bytes(32)
PERSONAL_FIELDS = frozenset(
    {"email", "name", "company", "billing_address", "vat_id", "buyer", "external_id", "metadata"}
    | {"allowed_ips", "client_ip", "user_agent", "file_name"}
)
DIGEST = "sha256"  # the member of the object that replaces a personal value

_EXACT = Context(prec=2000)  # more digits than an accepted number of JSON has; jsonb keeps them all
_PURPOSE = b"gateway audit chain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The content of a row. `before` and `after` are JSON."""

    id: int
    actor: str
    action: str
    entity: str
    entity_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    reason: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Personal:
    """An entry's personal values, stored apart, with the salt of their digests."""

    salt: bytes
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class SealedRow:
    """A row as it is stored."""

    entry: Entry
    previous: bytes | None
    hash: bytes | None
    key_version: int | None
    personal: Personal | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain. Rows up to `unsealed_until` precede the chain; with `mac` None nothing is sealed yet."""

    last_id: int
    hash: bytes
    unsealed_until: int
    mac: bytes | None
    key_version: int | None

    @property
    def anchor(self) -> str:
        """The text form, to be stored elsewhere."""
        return f"{self.last_id}:{self.hash.hex()}"


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """The first row at which the chain breaks, and why; 0 is the head."""

    id: int
    reason: str


def chain_key(pepper: bytes) -> bytes:
    """The key of the chain, derived apart from the digests of API keys."""
    return hmac.digest(pepper, _PURPOSE, "sha256")


def seal(key: bytes, previous: bytes, entry: Entry) -> bytes:
    """The 32-byte hash of an entry that follows the one whose hash is `previous`."""
    content = [
        entry.id,
        entry.created_at.astimezone(UTC).isoformat(timespec="microseconds"),
        *(entry.actor, entry.action, entry.entity, entry.entity_id, entry.before, entry.after, entry.reason),
    ]
    return hmac.digest(key, b"row" + previous + canonical(content), "sha256")


def seal_head(key: bytes, last_id: int, last_hash: bytes, *, unsealed_until: int) -> bytes:
    return hmac.digest(key, b"head" + last_hash + canonical([last_id, unsealed_until]), "sha256")


def canonical(document: Any) -> bytes:
    """Equal documents of jsonb give equal bytes: sorted members, numbers without exponent or trailing zeros."""
    return _canonical_text(document).encode("utf-8", "surrogatepass")


def split_personal(document: Mapping[str, Any] | None, salt: bytes) -> tuple[Any, dict[str, Any] | None]:
    """(the document with digests in place of personal values, those values by field or None)."""
    if document is None:
        return None, None
    personal = {name: value for name, value in document.items() if name in PERSONAL_FIELDS and value is not None}
    digests = {name: {DIGEST: _digest(salt, name, value)} for name, value in personal.items()}
    return {**document, **digests}, personal or None


class ChainWalk:
    """Verifies rows one by one, oldest first."""

    def __init__(self, keys: Mapping[int, bytes], head: Head, *, anchor: str | None = None) -> None:
        self._keys = keys
        self._head = head
        self._anchor = anchor
        self._previous = GENESIS
        self._last_id = 0
        self.rows = 0

    def step(self, row: SealedRow) -> ChainBreak | None:
        """The break at this row, or None."""
        reason = self._break_reason(row)
        self._last_id = row.entry.id
        self.rows += 1
        if row.hash is not None:
            self._previous = row.hash
        if f"{row.entry.id}:{self._previous.hex()}" == self._anchor:
            self._anchor = None
        return None if reason is None else ChainBreak(row.entry.id, reason)

    def finish(self) -> ChainBreak | None:
        """The break at the end of the rows, or None."""
        head = self._head
        if self._last_id != head.last_id:
            return ChainBreak(
                min(self._last_id, head.last_id) + 1, f"the rows end at {self._last_id}, not at {head.last_id}"
            )
        if head.mac is None:
            if head.last_id != head.unsealed_until:
                return ChainBreak(0, "the head carries no seal")
        elif head.hash != self._previous or not self._is_sealed(head):
            return ChainBreak(0, "the head was changed")
        if self._anchor is not None and self._anchor != f"0:{GENESIS.hex()}":
            return ChainBreak(int(self._anchor.partition(":")[0]), "the anchor is not in the chain: rows were replaced")
        return None

    def _break_reason(self, row: SealedRow) -> str | None:
        entry = row.entry
        if entry.id <= self._head.unsealed_until:
            return None if row.hash is None else "it is older than the chain, and yet sealed"
        if entry.id != max(self._last_id, self._head.unsealed_until) + 1:
            return f"the row before it is {self._last_id}: rows are missing"
        key = self._keys.get(row.key_version or 0)
        if row.hash is None or key is None:
            return "it carries no seal" if row.hash is None else f"no pepper of version {row.key_version} is configured"
        if row.previous != self._previous:
            return "it does not follow the row before it"
        if not hmac.compare_digest(row.hash, seal(key, self._previous, entry)):
            return "it was changed"
        if row.personal is not None and not _matches_digests(row.personal, entry):
            return "its personal data was changed"
        return None

    def _is_sealed(self, head: Head) -> bool:
        key = self._keys.get(head.key_version or 0)
        if key is None or head.mac is None:
            return False
        expected = seal_head(key, head.last_id, head.hash, unsealed_until=head.unsealed_until)
        return hmac.compare_digest(head.mac, expected)


def _matches_digests(personal: Personal, entry: Entry) -> bool:
    """Whether the personal values match the entry's digests, all of them."""
    return all(
        {name: {DIGEST: _digest(personal.salt, name, value)} for name, value in (values or {}).items()}
        == {name: value for name, value in (document or {}).items() if _is_digest(name, value)}
        for values, document in ((personal.before, entry.before), (personal.after, entry.after))
    )


def _is_digest(name: str, value: object) -> bool:
    return name in PERSONAL_FIELDS and isinstance(value, dict) and value.keys() == {DIGEST}


def _digest(salt: bytes, name: str, value: Any) -> str:
    return hashlib.sha256(salt + canonical([name, value])).hexdigest()


def _canonical_text(value: Any) -> str:
    if isinstance(value, Mapping):
        members = sorted(value.items())
        return "{" + ",".join(f"{_canonical_text(name)}:{_canonical_text(each)}" for name, each in members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_canonical_text, value)) + "]"
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return json.dumps(value, ensure_ascii=False)
    number = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
    return f"{number.normalize(_EXACT):f}" if number else "0"
