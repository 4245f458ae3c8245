"""The chain that seals the audit log: each row's hash is an HMAC of the row and of the hash before it.

Whoever has the database but not the secret can change no row, take none out, swap none and add none without the chain
saying where. Rows are numbered without gaps, and the head, which seals the newest number, says where the chain ends; so
rows missing at the end are found too, unless an older head was kept and is put back. An anchor, a head that was written
down elsewhere, finds that as well.

Personal data is sealed by salted digests of its values, which hold when values and salt are erased.
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
    {"email", "name", "company", "external_id", "metadata", "allowed_ips", "client_ip", "user_agent", "file_name"}
)
DIGEST = "sha256"  # the member by which a digest stands in the place of a personal value

_EXACT = Context(prec=2000)  # more digits than any number in 16 KiB of JSON that we take; jsonb keeps them all
_PURPOSE = b"gateway audit chain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a row says. `before` and `after` are what JSON can hold."""

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
    """What is kept apart of an entry: the personal fields of `before` and `after`, and the salt of their digests."""

    salt: bytes
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Sealed:
    """A row as it is stored."""

    entry: Entry
    previous: bytes | None
    hash: bytes | None
    key_version: int | None
    personal: Personal | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends. Rows up to `unsealed_until` are older than the chain; `mac` None: nothing is sealed yet."""

    last_id: int
    hash: bytes
    unsealed_until: int
    mac: bytes | None
    key_version: int | None

    @property
    def anchor(self) -> str:
        """As it is printed, to be kept elsewhere."""
        return f"{self.last_id}:{self.hash.hex()}"


@dataclass(frozen=True, slots=True)
class Broken:
    """The first row at which the chain does not hold, and why; 0 is the head."""

    id: int
    reason: str


def chain_key(pepper: bytes) -> bytes:
    """The key of the chain, so that no digest of an API key ever equals a hash of it."""
    return hmac.digest(pepper, _PURPOSE, "sha256")


def seal(key: bytes, previous: bytes, entry: Entry) -> bytes:
    """The 32 bytes that seal an entry behind the one whose hash is `previous`."""
    said = [
        entry.id,
        entry.created_at.astimezone(UTC).isoformat(timespec="microseconds"),
        *(entry.actor, entry.action, entry.entity, entry.entity_id, entry.before, entry.after, entry.reason),
    ]
    return hmac.digest(key, b"row" + previous + canonical(said), "sha256")


def seal_head(key: bytes, last_id: int, last_hash: bytes, *, unsealed_until: int) -> bytes:
    return hmac.digest(key, b"head" + last_hash + canonical([last_id, unsealed_until]), "sha256")


def canonical(document: Any) -> bytes:
    """One spelling for what jsonb holds to be equal: sorted members, numbers without exponent or trailing zeros."""
    return _spelt(document).encode("utf-8", "surrogatepass")


def part_personal(document: Mapping[str, Any] | None, salt: bytes) -> tuple[Any, dict[str, Any] | None]:
    """(the document with digests in place of personal values, those values by field or None)."""
    if document is None:
        return None, None
    personal = {name: value for name, value in document.items() if name in PERSONAL_FIELDS and value is not None}
    digests = {name: {DIGEST: _digest(salt, name, value)} for name, value in personal.items()}
    return {**document, **digests}, personal or None


class Walk:
    """Goes along the rows, oldest first, and says of each whether the chain still holds."""

    def __init__(self, keys: Mapping[int, bytes], head: Head, *, anchor: str | None = None) -> None:
        self._keys = keys
        self._head = head
        self._anchor = anchor
        self._previous = GENESIS
        self._last_id = 0
        self.rows = 0

    def step(self, row: Sealed) -> Broken | None:
        """Why the chain does not hold at this row, or None."""
        reason = self._complaint(row)
        self._last_id = row.entry.id
        self.rows += 1
        if row.hash is not None:
            self._previous = row.hash
        if f"{row.entry.id}:{self._previous.hex()}" == self._anchor:
            self._anchor = None
        return None if reason is None else Broken(row.entry.id, reason)

    def end(self) -> Broken | None:
        """Why what was walked is not the whole chain, or None."""
        head = self._head
        if self._last_id != head.last_id:
            return Broken(
                min(self._last_id, head.last_id) + 1, f"the rows end at {self._last_id}, not at {head.last_id}"
            )
        if head.mac is None:
            if head.last_id != head.unsealed_until:
                return Broken(0, "the head carries no seal")
        elif head.hash != self._previous or not self._is_sealed(head):
            return Broken(0, "the head was changed")
        if self._anchor is not None and self._anchor != f"0:{GENESIS.hex()}":
            return Broken(int(self._anchor.partition(":")[0]), "the anchor is not in the chain: rows were replaced")
        return None

    def _complaint(self, row: Sealed) -> str | None:
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
        if row.personal is not None and not _are_those(row.personal, entry):
            return "its personal data was changed"
        return None

    def _is_sealed(self, head: Head) -> bool:
        key = self._keys.get(head.key_version or 0)
        if key is None or head.mac is None:
            return False
        made = seal_head(key, head.last_id, head.hash, unsealed_until=head.unsealed_until)
        return hmac.compare_digest(head.mac, made)


def _are_those(personal: Personal, entry: Entry) -> bool:
    """Whether the values are those that the entry holds the digests of, all of them."""
    return all(
        {name: {DIGEST: _digest(personal.salt, name, value)} for name, value in (values or {}).items()}
        == {name: value for name, value in (said or {}).items() if _is_digest(name, value)}
        for values, said in ((personal.before, entry.before), (personal.after, entry.after))
    )


def _is_digest(name: str, value: object) -> bool:
    return name in PERSONAL_FIELDS and isinstance(value, dict) and value.keys() == {DIGEST}


def _digest(salt: bytes, name: str, value: Any) -> str:
    return hashlib.sha256(salt + canonical([name, value])).hexdigest()


def _spelt(value: Any) -> str:
    if isinstance(value, Mapping):
        members = sorted(value.items())
        return "{" + ",".join(f"{_spelt(name)}:{_spelt(each)}" for name, each in members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_spelt, value)) + "]"
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return json.dumps(value, ensure_ascii=False)
    number = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
    return f"{number.normalize(_EXACT):f}" if number else "0"
