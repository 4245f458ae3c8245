"""Whose an API key is, where a program reads its account instead of calling through the proxy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from gateway.clock import now
from gateway.ledger.accounts import principals
from gateway.ledger.db.session import Database
from policies.access import keys
from policies.model import AccountStatus, Key, Refusal, Refused


class KeyHolder(NamedTuple):
    """A user who asks by one of their keys."""

    id: UUID
    key: Key


class KeyReader:
    """Tells whose a key is, as the proxy would."""

    def __init__(self, database: Database, prefix: str, peppers: Mapping[int, bytes]) -> None:
        self._database = database
        self._prefix = prefix
        self._peppers = peppers

    def is_key(self, sent: str) -> bool:
        """By its first characters; a mistyped key is a key still."""
        return sent.startswith(f"{self._prefix}_live_")

    async def holder(self, sent: str, *, client_ip: str) -> KeyHolder:
        """Raises Refused for a key that the proxy would refuse, in the same words."""
        key = sent.encode("utf-8", "surrogateescape")
        if not keys.is_well_formed(self._prefix, key):
            raise Refused(Refusal.INVALID_KEY, "This is not a valid API key.")
        async with self._database.read() as connection:
            for digest in keys.digests(key, self._peppers).values():
                found = await principals.find_principal(connection, digest)
                if found is not None:
                    keys.check(found.key, now(), client_ip=client_ip)
                    if found.account.status is AccountStatus.SUSPENDED:
                        raise Refused(Refusal.ACCOUNT_SUSPENDED, "This account is suspended.")
                    return KeyHolder(found.account.id, found.key)
        raise Refused(Refusal.INVALID_KEY, "This is not a valid API key.")
