"""Who is behind a key, remembered per process and never served stale.

Entries need no expiry to be right: every admission sends the versions it was decided on, and the meter answers `stale`
when either has moved. They are still read anew after `max_age_seconds`, so that a lost announcement heals. With
PostgreSQL out of reach known callers go on being served for `max_stale_seconds`; unknown keys get 503, never 401.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from gateway import metrics
from gateway.clock import monotonic_seconds
from gateway.ledger.accounts import api_keys as key_ledger
from gateway.ledger.accounts import principals as ledger
from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.meter.keys import AccountKeys
from gateway.meter.meter import Meter
from gateway.metrics import BufferedCounter
from gateway.proxy.admission.imported_keys import ForeignKeys
from gateway.proxy.telemetry.access_log import masked
from policies.access import keys
from policies.access.key_budgets import Cap, cap_of
from policies.access.limits import Limits, limits_of, policy_field, remaining_template
from policies.model import FeatureValue, Plan, Principal, Refusal, Refused, Subscription
from policies.usage import records

NEGATIVE_SECONDS = 2.0  # how long an unknown key stays unknown without asking again; a new key is random, so none waits

REFRESH_SECONDS = 0.1  # how long a known caller waits to be read anew; what was known then serves once more

RETRY_SECONDS = 1.0  # after a failure nobody waits for PostgreSQL to fail again


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal with all that can be computed once for it rather than once per request."""

    principal: Principal
    digest: bytes
    keys: AccountKeys
    limits: Limits
    metering_template: bytes
    identity_block: bytes
    record_part: str
    masked_key: str
    loaded_at: float
    cap: Cap | None = None


class SentKey(Protocol):
    """A key among the fields of a connection's requests; `digest` once it was found to be well-formed."""

    digest: bytes | None


class Principals:
    """A bounded cache of callers by key digest, with one load at a time per key."""

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
        self._foreign_keys = ForeignKeys(database, own_beginning=f"{prefix}_live_".encode())
        self._max_entries = max_entries
        self._max_age_seconds = max_age_seconds
        self._max_stale_seconds = max_stale_seconds
        self._entries: OrderedDict[bytes, Caller | float] = OrderedDict()  # a float: unknown until then
        self._loads: dict[bytes, asyncio.Task[Caller | None]] = {}
        self._retry_at = 0.0
        results = ("hit", "refresh", "negative", "miss", "stale")
        counters = (BufferedCounter(metrics.PRINCIPAL_CACHE.labels(result)) for result in results)
        self._hits, self._refreshes, self._known_unknowns, self._misses, self._stale = counters
        self._catalogue = ledger.Catalogue(version=-1, features={})

    def __repr__(self) -> str:
        return f"<Principals {len(self._entries)} cached, {len(self._loads)} loading>"

    def fresh(self, digest: bytes | None) -> Caller | None:
        """The caller of a key whose digest is known, where nothing has to be read for it."""
        if digest is None:
            return None
        entry = self._entries.get(digest)
        if not isinstance(entry, Caller) or monotonic_seconds() - entry.loaded_at >= self._max_age_seconds:
            return None
        self._entries.move_to_end(digest)
        self._hits.inc()
        return entry

    async def get(self, key: bytes, sent: SentKey | None = None) -> Caller:
        """The caller behind a key as sent; raises Refused for a malformed or unknown one.

        `sent` is remembered where the key came from, which saves 5 % of a metered call's CPU for a key sent again.
        """
        digest = None if sent is None else sent.digest
        if digest is None:
            if not keys.is_well_formed(self._prefix, key) and not await self._may_be_foreign(key):
                raise _unknown()
            digest = keys.digest(key, self._pepper)
            if sent is not None:
                sent.digest = digest
        caller = self.fresh(digest)
        if caller is not None:
            return caller
        entry = self._entries.get(digest)
        if isinstance(entry, Caller):
            self._entries.move_to_end(digest)
            self._refreshes.inc()
            return await self._refreshed(key, entry)
        if entry is not None and monotonic_seconds() < entry:
            self._known_unknowns.inc()
            raise _unknown()
        self._misses.inc()
        return await self._load(key, digest)

    async def reload(self, key: bytes) -> Caller:
        """The caller as PostgreSQL has it now, after the meter said that what we knew is stale."""
        self._stale.inc()
        return await self._load(key, keys.digest(key, self._pepper))

    async def confirm(self, key: bytes, caller: Caller) -> Caller:
        """The same caller if what we know of it is current, else the newer one. Asked before a refusal is final."""
        announced, known = await self._meter.versions(caller.keys), caller.principal
        if announced.account > known.account_version or announced.catalogue > known.catalogue_version:
            return await self.reload(key)
        return caller

    @property
    def offered(self) -> Mapping[str, Mapping[str, FeatureValue]]:
        """The features of the active plans by plan name, cheapest first."""
        return self._catalogue.features

    async def _refreshed(self, key: bytes, known: Caller) -> Caller:
        """The caller read anew, where PostgreSQL is quick. One call waits for that, not for long; others go on."""
        if monotonic_seconds() - known.loaded_at >= self._max_stale_seconds:
            return await self._load(key, known.digest)
        if known.digest in self._loads or monotonic_seconds() < self._retry_at:
            return known
        load = self._loading(key, known.digest)
        await asyncio.wait((load,), timeout=REFRESH_SECONDS)
        try:
            caller = load.result() if load.done() else known
        except DatabaseUnavailable:
            return known
        if caller is None:
            raise _unknown()
        return caller

    async def _load(self, key: bytes, digest: bytes) -> Caller:
        if monotonic_seconds() < self._retry_at:
            raise _unreadable()
        try:
            caller = await asyncio.shield(self._loading(key, digest))
        except DatabaseUnavailable:
            raise _unreadable() from None
        if caller is None:
            raise _unknown()
        return caller

    def _loading(self, key: bytes, digest: bytes) -> asyncio.Task[Caller | None]:
        load = self._loads.get(digest)
        if load is None:
            load = self._loads[digest] = asyncio.get_running_loop().create_task(self._read(key, digest))
            load.add_done_callback(lambda done: self._loaded(digest, done))
        return load

    async def _read(self, key: bytes, digest: bytes) -> Caller | None:
        principal, known_by = None, b""
        async with self._database.read() as connection:
            for known_by in keys.lookup_digests(self._prefix, key, self._peppers):
                principal = await ledger.find_principal(connection, known_by)
                if principal is not None:
                    break
            if principal is not None and principal.catalogue_version > self._catalogue.version:
                self._catalogue = await ledger.catalogue(connection)
        if principal is None:
            self._remember(digest, monotonic_seconds() + NEGATIVE_SECONDS)
            return None
        if known_by == keys.foreign_digest(key):
            await self._adopt(known_by, digest)
        caller = self._caller(principal, digest)
        self._remember(digest, caller)
        return caller

    async def _may_be_foreign(self, key: bytes) -> bool:
        try:
            return await self._foreign_keys.may_be(key)
        except DatabaseUnavailable:
            raise _unreadable() from None

    async def _adopt(self, known_by: bytes, digest: bytes) -> None:
        """Keeps an imported key under our pepper from its first use on; if that fails, from a later one."""
        with suppress(DatabaseUnavailable):
            async with self._database.transaction() as connection:
                version = max(self._peppers)
                await key_ledger.adopt(connection, known_by=known_by, key_hash=digest, pepper_version=version)

    def _loaded(self, digest: bytes, load: asyncio.Task[Caller | None]) -> None:
        self._loads.pop(digest, None)
        # Whoever asked may be gone: the failure is theirs to see, not the loop's to report.
        if not load.cancelled() and isinstance(load.exception(), DatabaseUnavailable):
            self._retry_at = monotonic_seconds() + RETRY_SECONDS

    def _caller(self, principal: Principal, digest: bytes) -> Caller:
        subscription = principal.account.subscription
        limits = Limits((None, None, None), None) if subscription is None else limits_of(subscription.plan)
        return Caller(
            principal=principal,
            digest=digest,
            keys=self._meter.keys(principal.account.id),
            limits=limits,
            metering_template=_metering_template(limits),
            identity_block=identity_block(principal, subscription),
            record_part=_record_part(principal, subscription),
            masked_key=masked(principal.key),
            loaded_at=monotonic_seconds(),
            cap=cap_of(principal.key, subscription),
        )

    def _remember(self, digest: bytes, entry: Caller | float) -> None:
        self._entries[digest] = entry
        self._entries.move_to_end(digest)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)


def identity_block(principal: Principal, subscription: Subscription | None) -> bytes:
    """The X-Gateway-* fields that tell the upstream who is calling, rendered once."""
    plan = subscription.plan if subscription else None
    return (
        f"x-gateway-user: {principal.account.id}\r\n"
        f"x-gateway-key: {principal.key.id}\r\n"
        f"x-gateway-plan: {_field_text(plan.name) if plan else ''}\r\n"
        f"x-gateway-features: {_features(plan) if plan else ''}\r\n"
    ).encode()


def _metering_template(limits: Limits) -> bytes:
    """The fields that tell a caller what is left, with a place for the balance and for `limits.remaining`."""
    balance, policy = b"x-credits-remaining: %d\r\n", policy_field(limits)
    if not policy:
        return balance
    return balance + b"ratelimit-policy: %b\r\nratelimit: %b\r\n" % (policy, remaining_template(limits))


def _record_part(principal: Principal, subscription: Subscription | None) -> str:
    """The columns that all records of a caller share: user, key, subscription, plan."""
    plan = None if subscription is None else records.text(str(subscription.plan.id))
    return records.part(principal.account.id, principal.key.id, None if subscription is None else subscription.id, plan)


def _features(plan: Plan) -> str:
    """Truthy flags by name, valued ones as name=value, comma-separated and sorted."""
    return ",".join(_field_text(_flag(name, value)) for name, value in sorted(plan.features.items()) if value)


def _flag(name: str, value: FeatureValue) -> str:
    return name if value is True else f"{name}={value}"


def _field_text(value: str) -> str:
    """Plan names are free text; a field value holds visible ASCII (RFC 9110 §5.5)."""
    return "".join(char if " " <= char <= "~" and char != "," else "?" for char in value)


def _unreadable() -> Refused:
    return Refused(
        Refusal.ACCOUNTS_UNAVAILABLE, "Accounts cannot be read at the moment; try again shortly.", retry_after=1
    )


def _unknown() -> Refused:
    return Refused(Refusal.INVALID_KEY, "This API key is not valid.")
