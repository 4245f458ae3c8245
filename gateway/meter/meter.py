"""What an account may still do, as Redis knows it: admissions, holds, balances, versions. One script a decision."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from gateway import metrics
from gateway.meter import admissions
from gateway.meter.admissions import Admission, packed_budget, packed_epoch, packed_terms, parse_admission
from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterUnavailable, NotSent
from gateway.meter.client.packing import WORD, Command, Word, words
from gateway.meter.epochs import REQUESTED, EpochRegister, LocalEpochRegister
from gateway.meter.idempotency import (
    CLAIM_SECONDS,
    ClaimOutcome,
    IdempotencyClaim,
    StorageLimits,
)
from gateway.meter.keys import AccountKeys, account_keys, partition_keys, partition_of, probe_key, swept_key
from gateway.meter.layout import CREDIT_SEQ_FIELD, EPOCH_FIELD, VERSION_FIELD
from gateway.meter.publications import Publication
from gateway.meter.recovery import Recovery
from gateway.meter.replay_buffer import OpenCall, Settlement
from gateway.meter.replies import LateSettleResult, LoadResult, SettleResult, Verdict
from gateway.meter.scripts import (
    ACCOUNT_SNAPSHOT,
    ADMIT,
    LATE_SETTLEMENT,
    LOAD_ACCOUNT,
    LOAD_KEY_BUDGET,
    SETTLE,
)
from gateway.meter.stored_bytes import StoredBytes
from policies.access.admission import AccountSnapshot
from policies.access.key_budgets import Cap
from policies.access.limits import Limits
from policies.usage import records

# By how much the clock of a gateway, which dates its calls, may be behind that of Redis, which counts them.
CLOCK_SKEW_MS = 5_000

# The pieces of the two commands of a call: keys, request id, terms, hold, epoch, what some calls have; keys, the words.
_ADMISSION = b"%b" + WORD + b"%b" + WORD + b"%b%b"
_SETTLEMENT = b"%b" + 3 * WORD
_SETTLE_WORDS = 1 + 3 + len(("request_id", "charge", "suffix"))  # a count, the keys, the arguments
_ABANDONED = records.abandoned_suffix()
_ADMITTED, _SETTLED = int(Verdict.ADMITTED), int(SettleResult.SETTLED)  # an int compares faster than an enum


class Versions(NamedTuple):
    """What was announced to Redis of an account in the present epoch; 0 if nothing was."""

    account: int
    catalogue: int
    credit_seq: int = 0


class Meter:
    """Decides in Redis about accounts.

    `register` counts the epochs; without it a new epoch does not wait for what other gateways replay. `storage` bounds
    the responses that are stored for calls with an Idempotency-Key.
    """

    def __init__(
        self,
        redis_client: RedisClient,
        *,
        partitions: int,
        owner: str,
        register: EpochRegister | None = None,
        storage: StorageLimits = StorageLimits(),  # noqa: B008 - frozen
    ) -> None:
        self._redis = redis_client
        self._owner = owner
        self._partitions = partitions
        self._recovery = Recovery(redis_client, partitions, owner=owner, register=register or LocalEpochRegister())
        self._epochs, self._replay_buffer = self._recovery.epochs, self._recovery.buffer
        self._storage = storage
        self._stored_bytes = StoredBytes(redis_client, storage.of_all)

    @property
    def partitions(self) -> int:
        return self._partitions

    def keys(self, account_id: UUID) -> AccountKeys:
        """The keys of an account; computed once per cached principal, not per request."""
        return account_keys(account_id, partition=partition_of(account_id, self._partitions))

    async def admit(
        self,
        keys: AccountKeys,
        *,
        request_id: str,
        account_version: int,
        catalogue_version: int,
        amount: int,
        required: int,
        limits: Limits,
        prefix: str,
        claim: IdempotencyClaim | None = None,
        cap: Cap | None = None,
    ) -> Admission:
        """Admits a call and holds `amount` credits for it, or says why not and changes nothing.

        With a `claim`, only if no other call has it; with a `cap`, only if that leaves the `required` credits. The
        record prefix of such a call is dated no earlier than the cap's period.

        Raises NotSent; or MeterUnavailable, after which the call may have been admitted: settle it without a charge.
        """
        epoch = self._epochs.current(keys.partition) or await self._recovery.epoch(keys.partition)
        packed_keys, count, optional = keys.packed_for_admit, admissions.WORDS, b""
        if claim is not None:
            packed_keys = words(4, keys.account, keys.catalogue, keys.holds, claim.key(keys))
            count, optional = count + 1 + admissions.CLAIM_WORDS, words(claim.fingerprint, CLAIM_SECONDS)
        if cap is not None:
            count += admissions.BUDGET_WORDS + (0 if claim is not None else admissions.CLAIM_WORDS)
            optional = (optional or admissions.NO_CLAIM) + packed_budget(cap, required)
        terms = packed_terms(account_version, catalogue_version, amount, required, limits)
        asked, hold, entered = request_id.encode(), f"{self._owner}\t{prefix}".encode(), packed_epoch(epoch)
        packed = _ADMISSION % (packed_keys, len(asked), asked, terms, len(hold), hold, entered, optional)
        reply = await self._redis.run_packed(ADMIT, keys.account, count, packed)
        if reply[0] == _ADMITTED:
            self._replay_buffer.under_way[request_id] = OpenCall(keys, request_id, epoch, amount, prefix, claim)
        elif reply[0] == Verdict.WRONG_EPOCH:
            self._epochs.mark_ended(keys.partition, epoch)
        return parse_admission(reply, epoch)

    async def settle(self, settlement: Settlement) -> int | None:
        """Settles an admitted call; gives the balance, or None if only PostgreSQL knows it.

        Idempotent. Corrects a call that was swept since. Replays one whose hold Redis has lost, if its record prefix
        and epoch are known. Stores the response of its claim's outcome unless either happened. Abandons the call at no
        charge if another call has claimed its key. Raises MeterUnavailable, MeterError.
        """
        keys, request_id, charge, suffix, prefix, epoch, claim_outcome, _ = settlement
        opened = self._replay_buffer.under_way.pop(request_id, None)
        if opened is not None and opened.epoch != epoch:  # it was restored in another one, or is not known
            prefix, epoch = opened.prefix, opened.epoch
            settlement = settlement._replace(record_prefix=prefix, epoch=epoch)
        if prefix and epoch != (self._epochs.current(keys.partition) or await self._recovery.epoch(keys.partition)):
            await self._recovery.replay(settlement)
            return None
        if claim_outcome is None:
            ended, charged, end = request_id.encode(), b"%d" % charge, suffix.encode()
            words_of = len(ended), ended, len(charged), charged, len(end), end
            packed = _SETTLEMENT % (keys.packed_for_settle, *words_of)
            reply = await self._redis.run_packed(SETTLE, keys.account, _SETTLE_WORDS, packed)
        else:
            reply = await self._settle_claimed(settlement, claim_outcome)
        if reply[0] == _SETTLED:
            if prefix:
                kept = settlement if claim_outcome is None else settlement.without_response()
                self._replay_buffer.add_settled(kept, reply[2].decode())
            balance: int | None = reply[1]
            return balance
        if reply[0] == SettleResult.KEY_CLAIMED:
            await self.abandon(keys, request_id)
            return None
        return await self._settle_late(settlement)

    async def abandon(self, keys: AccountKeys, request_id: str, *, suffix: str = _ABANDONED) -> bool:
        """Settles a call at no charge, since its process is gone; False if it was settled before.

        A later settlement corrects this for SWEPT_SECONDS.
        """
        return await self._recovery.abandon(keys, request_id, suffix)

    async def load(
        self,
        keys: AccountKeys,
        *,
        account_version: int,
        credit_seq: int,
        balance: int,
        catalogue_version: int,
        counted_upto: str = "0-0",
        calls: Sequence[str] = ("", "", ""),
        unpublished: str = "",
        epoch: str = "",
    ) -> LoadResult:
        """Loads an account with its open holds and what the journal charges past `counted_upto`.

        `epoch` is that of the partition before PostgreSQL was read: in another one nothing is loaded. `balance` is
        without what the journal charges up to `counted_upto`. `calls` are those counted so far, by window, as "bucket
        count bucket count ..": buckets are numbered as `admit.lua` does, CLOCK_SKEW_MS late. `unpublished` are changes
        up to `credit_seq` that are still to be applied, as "credit_seq amount credit_seq amount ..".
        """
        epoch = epoch or await self.epoch(keys.partition)
        minute, hour, day = calls
        arguments = LOAD_ACCOUNT.ordered(
            epoch=epoch,
            account_id=str(keys.account_id),
            account_version=account_version,
            credit_seq=credit_seq,
            balance=balance,
            catalogue_version=catalogue_version,
            counted_upto=counted_upto,
            clock_skew_ms=CLOCK_SKEW_MS,
            unpublished=unpublished,
            calls_minute=minute,
            calls_hour=hour,
            calls_day=day,
        )
        reply = await self._redis.run(LOAD_ACCOUNT, _partition_of(keys), arguments)
        if reply == LoadResult.WRONG_EPOCH:
            self._epochs.mark_ended(keys.partition, epoch)
        return LoadResult(reply)

    async def load_key_budget(
        self, keys: AccountKeys, cap: Cap, *, spent: int, counted_upto: str, key_ids: Sequence[UUID]
    ) -> LoadResult:
        """Loads what keys spent from a budget: `spent`, what the journal charges past this entry, and open holds.

        `key_ids` are all keys of the budget. WRONG_EPOCH says that the account is not loaded. Raises MeterUnavailable.
        """
        arguments = LOAD_KEY_BUDGET.ordered(
            budget_id=str(cap.budget_id),
            since=cap.since,
            credits=spent,
            counted_upto=counted_upto,
            key_ids=" ".join(map(str, key_ids)),
        )
        return LoadResult(await self._redis.run(LOAD_KEY_BUDGET, _partition_of(keys), arguments))

    async def epoch(self, partition: int) -> str:
        """The epoch of a partition. Raises NotSent."""
        return await self._recovery.epoch(partition)

    def on_epochs_changed(self, callback: Callable[[Collection[int]], None]) -> None:
        """Calls back with the partitions that are about to enter another epoch, in which older decisions are void."""
        self._epochs.on_changed = callback

    async def enter_epochs(self) -> None:
        """Enters the epochs of all partitions that can be entered now, so that no call waits for that."""
        await self._epochs.enter_all()

    async def check_writable(self) -> None:
        """Returns if a server takes writes, in an epoch that is known and loads accounts.

        Raises MeterUnavailable, MeterError.
        """
        partitions = range(self._partitions)
        if not any(self._epochs.current(each) for each in partitions):
            raise NotSent("no partition of Redis is in an epoch that is known")
        by_server = {id(self._redis.connection(partition_keys(each).catalogue)): each for each in partitions}
        results = await asyncio.gather(
            *(self._check_server(each) for each in by_server.values()), return_exceptions=True
        )
        failures = [each for each in results if isinstance(each, BaseException)]
        if len(failures) == len(results):
            raise failures[0]

    async def _check_server(self, partition: int) -> None:
        """The epochs of a server begin together, so one of its partitions tells of all."""
        await self._redis.call((b"SET", probe_key(partition), 1, b"PX", 1000))
        if seconds := await self._epochs.opens_in(partition):
            raise MeterUnavailable(f"Redis is in a new epoch, which loads accounts in {seconds:.1f} s")

    async def compare_stores(self) -> int:
        """Notices that a store has gone back, and begins new epochs; gives how many were entered.

        Raises MeterUnavailable, also while PostgreSQL is out of reach.
        """
        return await self._epochs.compare()

    async def rebuild(self, partitions: Collection[int] | None = None, *, reason: str = REQUESTED) -> Mapping[int, str]:
        """Begins an epoch in these partitions, in all by default, so that their accounts are loaded again.

        Gives why each of those that could be reached has begun one. Raises MeterUnavailable.
        """
        everywhere = range(self._partitions)
        return await self._epochs.rebuild(everywhere if partitions is None else partitions, reason=reason)

    async def check_epochs(self) -> int:
        """Notices that Redis was lost, and replays what this process knows; gives how many epochs were entered.

        Raises MeterUnavailable.
        """
        return await self._epochs.check(self._replay_buffer.discard_through)

    async def account_snapshot(
        self, keys: AccountKeys, limits: Limits, cap: Cap | None = None
    ) -> AccountSnapshot | None:
        """What an admission under these limits would find now; None if the account is not loaded. Changes nothing.

        What the cap's keys spent is None too if it is not loaded.
        """
        minute, hour, day = (-1 if limit is None else limit for limit in limits.per_window)
        arguments: dict[str, Word] = {"limit_minute": minute, "limit_hour": hour, "limit_day": day}
        if cap is not None:
            arguments |= {"budget_id": str(cap.budget_id), "budget_since": cap.since, "budget_keys": cap.keys}
        reply = await self._redis.run(
            ACCOUNT_SNAPSHOT, (keys.account, keys.catalogue), ACCOUNT_SNAPSHOT.ordered(**arguments)
        )
        if reply[0] == Verdict.NOT_LOADED:
            return None
        found = parse_admission((Verdict.RATE_LIMITED, *reply[1:]))
        return AccountSnapshot(
            found.balance,
            reply[10],
            found.used,
            found.reset_seconds,
            found.retry_after_seconds,
            found.violated,
            reply[11] if len(reply) > 11 else None,
        )

    async def publication(self) -> Publication:
        """Publishes what is read from PostgreSQL after this."""
        return await Publication.open(self._redis, self._partitions)

    async def unload(self, keys: AccountKeys) -> None:
        """Unloads an account, so that its next call loads it from PostgreSQL, the journal and its holds."""
        await self._redis.call((b"DEL", keys.account))

    async def versions(self, keys: AccountKeys) -> Versions:
        """The versions announced for an account; no version that was read is below 0."""
        asked: list[Command] = [
            (b"HMGET", keys.account, VERSION_FIELD, CREDIT_SEQ_FIELD, EPOCH_FIELD),
            (b"HMGET", keys.catalogue, VERSION_FIELD, EPOCH_FIELD),
        ]
        (account, credit_seq, epoch), (catalogue, current) = await self._redis.pipeline(asked)
        if epoch != current:
            return Versions(0, int(catalogue or 0))
        return Versions(int(account or 0), int(catalogue or 0), int(credit_seq or 0))

    async def catalogue_version(self) -> int:
        """The version announced for the catalogue; 0 if none is."""
        return int(await self._redis.call((b"HGET", partition_keys(0).catalogue, VERSION_FIELD)) or 0)

    async def _settle_claimed(self, settlement: Settlement, outcome: ClaimOutcome) -> list[int | bytes]:
        keys, size = settlement.keys, len(outcome.response or b"")
        if size and not await self._stored_bytes.take(size):
            outcome, size = outcome.without_response, 0
            metrics.RESPONSES_NOT_STORED.labels("all").inc()
        arguments = SETTLE.ordered(
            request_id=settlement.request_id,
            charge=settlement.charge,
            suffix=settlement.record_suffix,
            remember_seconds=CLAIM_SECONDS,
            fingerprint=outcome.claim.fingerprint,
            max_stored_bytes=self._storage.of_account,
            **outcome.optional_response,
        )
        where = (keys.account, keys.holds, keys.journal, outcome.claim.key(keys))
        reply: list[int | bytes] = await self._redis.run(SETTLE, where, arguments)
        if size and reply[0] == _SETTLED and not reply[3]:
            self._stored_bytes.give_back(size)
            metrics.RESPONSES_NOT_STORED.labels("account").inc()
        return reply

    async def _settle_late(self, settlement: Settlement) -> int | None:
        """Settles a call that has no hold any more."""
        keys, request_id, charge, suffix, prefix, epoch, outcome, _ = call = settlement.without_response()
        where = [keys.account, swept_key(keys.partition, request_id), keys.journal, keys.catalogue]
        arguments: dict[str, Word] = {"charge": charge, "suffix": suffix, "epoch": epoch if prefix else ""}
        if outcome is not None:
            where.append(outcome.claim.key(keys))
            arguments |= {"request_id": request_id, "claim_seconds": CLAIM_SECONDS}
            arguments |= {"fingerprint": outcome.claim.fingerprint, **outcome.optional_response}
        reply = await self._redis.run(LATE_SETTLEMENT, where, LATE_SETTLEMENT.ordered(**arguments))
        if reply[0] == LateSettleResult.WRONG_EPOCH:
            self._epochs.mark_ended(keys.partition, epoch)
            await self._recovery.replay(call)
        if reply[0] in (LateSettleResult.WRONG_EPOCH, LateSettleResult.STAYS_ABANDONED):
            return None
        if prefix:  # else it could not be replayed
            self._replay_buffer.add_settled(call, reply[2].decode())
        return reply[1] if reply[0] == LateSettleResult.SETTLED else None


def _partition_of(keys: AccountKeys) -> tuple[bytes, bytes, bytes, bytes]:
    return keys.account, keys.catalogue, keys.holds, keys.journal
