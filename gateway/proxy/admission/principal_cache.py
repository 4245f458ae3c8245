"""Callers by API key, cached in each process and never used stale.

Entries need no expiry to be right: every admission sends the versions it was decided on, and the meter answers `stale`
when either has moved. They are still refreshed after `max_age_seconds`, so that a lost announcement heals. While
PostgreSQL is out of reach, known callers are served for `max_stale_seconds`; unknown keys get 503, never 401.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import replace

from gateway import metrics
from gateway.clock import monotonic_seconds
from gateway.ledger.accounts import key_lookup
from gateway.ledger.accounts import principals as ledger
from gateway.ledger.accounts.key_lookup import ImportedKeys
from gateway.ledger.accounts.stored_digests import API_KEYS, StoredDigests
from gateway.ledger.db.session import Database, DatabaseUnavailable, PoolBusy
from gateway.meter.meter import Meter
from gateway.metrics import BufferedCounter
from gateway.paced_subjects import PacedSubjects
from gateway.proxy.admission.caller import Caller, build_caller
from gateway.proxy.request.inbound import ConnectionCache
from policies.access import keys
from policies.access.throttling import UNKNOWN_KEYS_FROM_ADDRESS, neighbourhood
from policies.model import Refusal, Refused

NEGATIVE_SECONDS = 2.0  # how long an unknown key is refused without a query; new keys are random, so none is delayed
REFRESH_SECONDS = 0.1  # how long a call waits for its caller to be refreshed before it goes on with the cached one
RETRY_SECONDS = 1.0  # after a failure no call waits for PostgreSQL to fail again
EXPIRED = float("-inf")  # `loaded_at` of a caller that must be loaded again
# So many callers at a time are read that are not cached, which leaves connections to those that are.
MAX_LOOKUPS = 2


class PrincipalCache:
    """A bounded cache of callers by key digest, with one load at a time for each key.

    `catalogue` has the features of the active plans, as the newest caller was loaded with.
    """

    def __init__(
        self,
        database: Database,
        meter: Meter,
        *,
        prefix: str,
        peppers: Mapping[int, bytes],
        max_entries: int,
        max_age_seconds: float,
        max_stale_seconds: float,
    ) -> None:
        self._database = database
        self._meter = meter
        self._prefix = prefix
        self._peppers = peppers
        self._pepper = peppers[max(peppers)]
        self._stored_keys = StoredDigests(database, API_KEYS)
        self._imported_keys = ImportedKeys(database, own_prefix=f"{prefix}_live_".encode())
        self._max_entries = max_entries
        self._max_age_seconds = max_age_seconds
        self._max_stale_seconds = max_stale_seconds
        self._callers: OrderedDict[bytes, Caller] = OrderedDict()
        self._unknown_until: OrderedDict[bytes, float] = OrderedDict()
        self._loads: dict[bytes, asyncio.Task[Caller | None]] = {}
        self._lookups = asyncio.Semaphore(MAX_LOOKUPS)
        self._unknown_pace = PacedSubjects(UNKNOWN_KEYS_FROM_ADDRESS)
        self._retry_at = 0.0
        results = ("hit", "refresh", "negative", "miss", "stale")
        counters = (BufferedCounter(metrics.PRINCIPAL_CACHE.labels(result)) for result in results)
        self._hits, self._refreshes, self._negatives, self._misses, self._stale = counters
        self.catalogue = ledger.Catalogue(version=-1, features={})
        self._expiries = 0

    def __repr__(self) -> str:
        return f"<PrincipalCache {len(self._callers)} cached, {len(self._loads)} loading>"

    def find_fresh(self, digest: bytes | None) -> Caller | None:
        """The cached caller of a key whose digest is known; None where PostgreSQL is to be read for it."""
        if digest is None:
            return None
        caller = self._callers.get(digest)
        if caller is None or monotonic_seconds() - caller.loaded_at >= self._max_age_seconds:
            return None
        self._callers.move_to_end(digest)
        self._hits.add(1)
        return caller

    async def get(self, key: bytes, connection_cache: ConnectionCache | None = None, *, address: str = "") -> Caller:
        """The caller behind a key as sent; raises Refused for a malformed or unknown one.

        The digest is cached with the connection, which saves 5 % of a metered call's CPU for a key sent again.
        """
        digest = await self._digest(key, connection_cache)
        caller = self.find_fresh(digest)
        if caller is not None:
            return caller
        caller = self._callers.get(digest)
        if caller is not None:
            self._callers.move_to_end(digest)
            self._refreshes.add(1)
            return await self._refresh(key, caller)
        if monotonic_seconds() < self._unknown_until.get(digest, 0.0):
            self._negatives.add(1)
            raise _unknown()
        self._misses.add(1)
        return await self._look_up(key, digest, address)

    async def _look_up(self, key: bytes, digest: bytes, address: str) -> Caller:
        """The caller behind a key that nothing is known of; a known one costs its address nothing."""
        if digest in self._loads:
            return await self._load(key, digest)
        subject = neighbourhood(address)
        if not self._unknown_pace.take(subject):
            raise _too_many_unknown()
        try:
            caller = await self._load(key, digest)
        except Refused as refused:
            if refused.code is not Refusal.INVALID_KEY:
                self._unknown_pace.give_back(subject)
            raise
        self._unknown_pace.give_back(subject)
        return caller

    async def reload(self, key: bytes) -> Caller:
        """The caller as PostgreSQL has it now, after the meter answered that the cached one is stale."""
        self._stale.add(1)
        return await self._load(key, keys.digest(key, self._pepper))

    async def confirm(self, key: bytes, caller: Caller) -> Caller:
        """The same caller if it is current, else the newer one; asked before a refusal is final."""
        announced, known = await self._meter.versions(caller.keys), caller.principal
        if announced.account > known.account_version or announced.catalogue > known.catalogue_version:
            return await self.reload(key)
        return caller

    def has_servable(self) -> bool:
        """Whether a caller is cached that would be served without PostgreSQL."""
        oldest = monotonic_seconds() - self._max_stale_seconds
        return any(caller.loaded_at > oldest for caller in reversed(self._callers.values()))

    def expire(self, partitions: Collection[int]) -> None:
        """Reads the callers of these partitions again before they are served: PostgreSQL may have gone back.

        In another epoch versions may stand for other states than they did before.
        """
        self._expiries += 1
        for digest, caller in self._callers.items():
            if caller.keys.partition in partitions:
                self._callers[digest] = replace(caller, loaded_at=EXPIRED)

    async def _digest(self, key: bytes, connection_cache: ConnectionCache | None) -> bytes:
        if connection_cache is not None and connection_cache.key_digest is not None:
            return connection_cache.key_digest
        if not keys.is_well_formed(self._prefix, key) and not await self._may_be_imported(key):
            raise _unknown()
        digest = keys.digest(key, self._pepper)
        if connection_cache is not None:
            connection_cache.key_digest = digest
        return digest

    async def _refresh(self, key: bytes, cached: Caller) -> Caller:
        """The caller as PostgreSQL has it, if it answers soon; only one call waits for that, the others do not."""
        if monotonic_seconds() - cached.loaded_at >= self._max_stale_seconds:
            return await self._load(key, cached.digest)
        if cached.digest in self._loads or monotonic_seconds() < self._retry_at:
            return cached
        load = self._start_load(key, cached.digest)
        await asyncio.wait((load,), timeout=REFRESH_SECONDS)
        try:
            caller = load.result() if load.done() else cached
        except DatabaseUnavailable:
            return cached
        if caller is None:
            raise _unknown()
        return caller

    async def _load(self, key: bytes, digest: bytes) -> Caller:
        if monotonic_seconds() < self._retry_at:
            raise _unavailable()
        try:
            caller = await asyncio.shield(self._start_load(key, digest))
        except DatabaseUnavailable:
            raise _unavailable() from None
        if caller is None:
            raise _unknown()
        return caller

    def _start_load(self, key: bytes, digest: bytes) -> asyncio.Task[Caller | None]:
        load = self._loads.get(digest)
        if load is None:
            load = self._loads[digest] = asyncio.get_running_loop().create_task(self._read(key, digest))
            load.add_done_callback(lambda done: self._end_load(digest, done))
        return load

    def _end_load(self, digest: bytes, load: asyncio.Task[Caller | None]) -> None:
        self._loads.pop(digest, None)
        # The calls that waited may be gone: asking for the exception keeps the loop from reporting it.
        error = None if load.cancelled() else load.exception()
        if isinstance(error, DatabaseUnavailable) and not isinstance(error, PoolBusy):
            self._retry_at = monotonic_seconds() + RETRY_SECONDS

    async def _read(self, key: bytes, digest: bytes) -> Caller | None:
        if digest in self._callers:
            return await self._query(key, digest)
        # Anyone can write keys that look right: what a caller is made of is read only for keys that are stored.
        if not await self._stored_keys.has_any(keys.lookup_digests(self._prefix, key, self._peppers)):
            self._cache_unknown(digest)
            return None
        async with self._lookups:
            return await self._query(key, digest)

    async def _query(self, key: bytes, digest: bytes) -> Caller | None:
        expiries = self._expiries
        async with self._database.look_up() as connection:
            found = await key_lookup.find_holder(connection, key, prefix=self._prefix, peppers=self._peppers)
            if found is not None and found.principal.catalogue_version != self.catalogue.version:
                self.catalogue = await ledger.get_catalogue(connection)
        if found is None:
            self._cache_unknown(digest)
            return None
        principal = found.principal
        await key_lookup.rehash(self._database, key, stored_digest=found.stored_digest, peppers=self._peppers)
        caller = build_caller(principal, digest, self._meter.keys(principal.account.id))
        if expiries != self._expiries:  # it was read before them
            caller = replace(caller, loaded_at=EXPIRED)
        self._cache(caller)
        return caller

    async def _may_be_imported(self, key: bytes) -> bool:
        try:
            return await self._imported_keys.may_include(key)
        except DatabaseUnavailable:
            raise _unavailable() from None

    def _cache(self, caller: Caller) -> None:
        self._unknown_until.pop(caller.digest, None)
        self._callers[caller.digest] = caller
        self._callers.move_to_end(caller.digest)
        while len(self._callers) > self._max_entries:
            self._callers.popitem(last=False)

    def _cache_unknown(self, digest: bytes) -> None:
        self._callers.pop(digest, None)
        self._unknown_until[digest] = monotonic_seconds() + NEGATIVE_SECONDS
        self._unknown_until.move_to_end(digest)
        while len(self._unknown_until) > self._max_entries:
            self._unknown_until.popitem(last=False)


def _unavailable() -> Refused:
    return Refused(
        Refusal.ACCOUNTS_UNAVAILABLE, "Accounts cannot be read at the moment; try again shortly.", retry_after=1
    )


def _too_many_unknown() -> Refused:
    return Refused(
        Refusal.RATE_LIMITED,
        "Too many unknown API keys came from this address; retry in 1 s.",
        violated_policies=(),
        retry_after=1,
    )


def _unknown() -> Refused:
    return Refused(Refusal.INVALID_KEY, "This API key is not valid.")
