"""Users and their API keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from uuid import UUID
from zoneinfo import available_timezones

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.importing.records import Record
from gateway.importing.targets import Result, Target, UnfitField, Users, existing
from gateway.ledger.accounts import api_keys, imported_keys, users
from gateway.ledger.accounts.imported_keys import ForeignKey, in_the_clear
from gateway.ledger.db import tables
from gateway.ledger.payments import provider_customers
from policies.access.keys import is_well_formed
from policies.access.passwords import is_verifiable
from policies.billing.providers import PROVIDERS
from policies.model import AccountStatus, KeyScheme, KeyStatus

PASSWORD_RESET = "users whose password hash cannot be verified here: they set a new password by mail"  # noqa: S105
_SHORTEST_KEY, _PREFIX_LENGTH = 16, 4
_SHARED_PREFIX = re.compile(r"^[!-~]{0,11}?[_-](?:(?:live|test|prod|sandbox)[_-])?")
UNKNOWN_LAST4 = "????"


class UserWriter:
    def __init__(self, target: Target) -> None:
        self._target = target
        self._present: set[UUID] = set()

    async def begin_batch(self, connection: AsyncConnection, batch: Sequence[Record]) -> None:
        self._present = await existing(connection, tables.users, [record.id for record in batch])

    async def write(self, connection: AsyncConnection, record: Record) -> Result:
        """A user who was imported and then deleted stays deleted."""
        if record.id in self._present:
            return Result.PRESENT
        fields = record.only("name", "company", "billing_address", "vat_id", "metadata", "created_at")
        fields["external_id"] = record.fields.get("external_id", record.key)
        fields["email_verified_at"] = self._verified_at(record)
        fields["time_zone"] = self._time_zone(record)
        password_hash = self._password_hash(record)
        await users.create(connection, record.fields["email"], id=record.id, password_hash=password_hash, **fields)
        for provider in PROVIDERS:
            await self._record_customer(connection, record, provider)
        if record.fields.get("status") == AccountStatus.SUSPENDED:
            await users.suspend(connection, record.id)
        after = {"email": record.fields["email"], **fields, "status": record.fields.get("status", "active")}
        await self._target.record(connection, "users.import", "user", entity_id=record.id, after=after)
        if password_hash is None and "password_hash" in record.fields:
            self._target.note(PASSWORD_RESET)
        return Result.IMPORTED

    def _verified_at(self, record: Record) -> object:
        if record.fields.get("is_email_verified"):
            return record.fields.get("email_verified_at") or record.fields.get("created_at") or self._target.now
        return record.fields.get("email_verified_at")

    def _time_zone(self, record: Record) -> str:
        zone: str = record.fields.get("time_zone", "UTC")
        if zone != "UTC" and zone not in available_timezones():
            raise UnfitField("time_zone", f"is no IANA time zone: {zone!r}")
        return zone

    def _password_hash(self, record: Record) -> str | None:
        found: str | None = record.fields.get("password_hash")
        return found if found is not None and is_verifiable(found) else None

    async def _record_customer(self, connection: AsyncConnection, record: Record, provider: str) -> None:
        field = f"{provider}_customer_id"
        customer_id = record.fields.get(field)
        if customer_id is None:
            return
        recorded = await provider_customers.record(
            connection, record.id, provider=provider, provider_customer_id=customer_id
        )
        if recorded != customer_id:
            raise UnfitField(field, "is the customer id of another user already")


class KeyWriter:
    def __init__(self, target: Target) -> None:
        self._target, self._users = target, Users(target, tables.users)
        self._present: set[UUID] = set()

    async def begin_batch(self, connection: AsyncConnection, batch: Sequence[Record]) -> None:
        await self._users.look_up(connection, batch)
        self._present = await existing(connection, tables.api_keys, [record.id for record in batch])

    async def write(self, connection: AsyncConnection, record: Record) -> Result:
        if record.id in self._present:
            return await self._withdraw(connection, record)
        settings = record.only(
            *("name", "permissions", "allowed_ips", "credit_cap", "expires_at", "last_used_at", "created_at")
        )
        key = self._key(record)
        await imported_keys.create(
            connection,
            self._users.id_of(record),
            key=key,
            own_prefix=self._target.key_prefix,
            id=record.id,
            **settings,
        )
        status = await self._set_status(connection, record)
        after = {"user_id": self._users.id_of(record), "prefix": key.prefix, "last4": key.last4, "status": status}
        await self._target.record(connection, "keys.import", "key", entity_id=record.id, after=after)
        return Result.IMPORTED

    async def _withdraw(self, connection: AsyncConnection, record: Record) -> Result:
        """A key that was revoked or disabled there since is so here too; none is enabled again."""
        status = record.fields.get("status", KeyStatus.ACTIVE)
        key = None if status == KeyStatus.ACTIVE else await api_keys.get(connection, record.id)
        if key is None or key.status in (status, KeyStatus.REVOKED):
            return Result.PRESENT
        await self._set_status(connection, record)
        await self._target.record(connection, "keys.import", "key", entity_id=record.id, after={"status": status})
        return Result.IMPORTED

    async def _set_status(self, connection: AsyncConnection, record: Record) -> str:
        status: str = record.fields.get("status", KeyStatus.ACTIVE)
        if status == KeyStatus.REVOKED:
            await api_keys.revoke(connection, record.id)
        elif status == KeyStatus.DISABLED:
            await api_keys.patch(connection, record.id, status=KeyStatus.DISABLED)
        return status

    def _key(self, record: Record) -> ForeignKey:
        secret: str | None = record.fields.get("key")
        if secret is not None:
            return self._in_the_clear(record, secret)
        if "digest" not in record.fields:
            raise UnfitField("digest", "is missing, and so is the key itself")
        prefix: str | None = record.fields.get("prefix")
        if prefix is None or not 3 <= len(prefix) <= 32:
            raise UnfitField("prefix", "must be the 3 to 32 characters that the key begins with")
        scheme = KeyScheme(record.fields.get("algorithm", KeyScheme.SHA256))
        return ForeignKey(
            digest=record.fields["digest"],
            prefix=prefix,
            last4=self._last4(record),
            scheme=scheme,
            pepper_version=self._pepper_version(record, scheme),
        )

    def _in_the_clear(self, record: Record, secret: str) -> ForeignKey:
        if len(secret) < _SHORTEST_KEY:
            raise UnfitField("key", f"is shorter than {_SHORTEST_KEY} characters, hence easy to guess")
        own = self._target.key_prefix
        if secret.startswith(f"{own}_live_") and not is_well_formed(own, secret.encode()):
            raise UnfitField("key", f"begins with {own}_live_, and is no key of this gateway")
        prefix = record.fields.get("prefix") or shared_prefix(secret)
        if not secret.startswith(prefix) or not 3 <= len(prefix) <= 32:
            raise UnfitField("prefix", "must be the 3 to 32 characters that the key begins with")
        return in_the_clear(secret, prefix=prefix, peppers=self._target.peppers)

    def _last4(self, record: Record) -> str:
        found: str = record.fields.get("last4", UNKNOWN_LAST4)
        return found if len(found) == 4 else UNKNOWN_LAST4

    def _pepper_version(self, record: Record, scheme: KeyScheme) -> int:
        if scheme is KeyScheme.SHA256:
            return max(self._target.peppers)
        version: int | None = record.fields.get("pepper_version")
        if version is None or version not in self._target.peppers:
            known = ", ".join(map(str, sorted(self._target.peppers)))
            raise UnfitField("pepper_version", f"must be one that is configured: {known}")
        return version


def shared_prefix(secret: str) -> str:
    """What keys of its kind begin with: up to an early `_` or `-`, else four characters.

    Every process keeps the prefixes of imported keys in memory, so they must be few.
    """
    found = _SHARED_PREFIX.match(secret)
    prefix = "" if found is None else found[0]
    return prefix if len(prefix) >= 3 else secret[:_PREFIX_LENGTH]
