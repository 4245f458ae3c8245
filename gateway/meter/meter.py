"""What an account may still do, remembered in Redis: admissions, holds, balances, versions. One script a decision."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from gateway.meter.admissions import Admission, packed_budget, packed_terms, parse_admission
from gateway.meter.batches import in_batches
from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterError, MeterUnavailable, NotSent
from gateway.meter.client.packing import word, words
from gateway.meter.epochs import EpochRegister, Epochs, LocalEpochRegister
from gateway.meter.idempotency import CLAIM_SECONDS, ClaimOutcome, IdempotencyClaim
from gateway.meter.keys import AccountKeys, account_keys, partition_keys, partition_of, swept_key
from gateway.meter.replay_buffer import OpenCall, ReplayBuffer, SettledCall
from gateway.meter.replies import CreditChangeResult, LoadResult, Verdict
from gateway.meter.scripts import ADMIT, BUMP, GRANT, LATE, LOAD, PEEK, REPLAY, RESTORE, SETTLE
from policies.access.admission import AccountSnapshot
from policies.access.key_budgets import Cap
from policies.access.limits import Limits
from policies.model import Outcome
from policies.usage import records

# How long a settlement may come after its call was swept: frozen gateways, and spools of machines that were down.
SWEPT_SECONDS = 7 * 86_400

# By how much the clock of a gateway, which dates its calls, may be behind that of Redis, which counts them.
CLOCK_SKEW_MS = 5_000

# How long a call waits for an epoch that follows another: nothing is loaded in it for a while anyhow.
REENTER_SECONDS = 0.05

_CLAIMED = 3  # what scripts reply where another call has the key
_USER_ID = records.HEAD_COLUMNS.index("user_id")
ABANDONED = records.tail(Outcome.ABANDONED, None, None, 0, *[None] * (len(records.TAIL_COLUMNS) - 4))


class Versions(NamedTuple):
    account: int
    catalogue: int


class Meter:
    """All that is asked of the hot copy of accounts.

    `register` counts the epochs; without it nothing waits for what other gateways know of an epoch before.
    """

    def __init__(
        self, redis_client: RedisClient, *, partitions: int, owner: str, register: EpochRegister | None = None
    ) -> None:
        self._redis = redis_client
        self._owner = owner
        self._by_partition = tuple(partition_keys(number) for number in range(partitions))
        self._replay_buffer = ReplayBuffer()
        self._epochs = Epochs(
            redis_client, self._by_partition, register=register or LocalEpochRegister(), hand_in=self._hand_in
        )

    @property
    def partitions(self) -> int:
        return len(self._by_partition)

    def keys(self, account_id: UUID) -> AccountKeys:
        """The keys of an account; computed once per cached principal, not per request."""
        return account_keys(account_id, partition=partition_of(account_id, self.partitions))

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
        head: str,
        claim: IdempotencyClaim | None = None,
        cap: Cap | None = None,
    ) -> Admission:
        """Admits a call and holds `amount` credits for it, or says why not and changes nothing.

        With a `claim`, only if no other call has it; with a `cap`, only if that leaves the `required` credits. The head
        of such a call is dated no earlier than the cap's period.

        Raises NotSent, or MeterUnavailable, after which the call may have been admitted all the same: settle it at 0.
        """
        epoch = self._epochs.current(keys.partition) or await self._epoch(keys)
        where, count, claimed = keys.admitted_by, 15, b""
        if claim is not None:
            where, count = words(4, keys.account, keys.catalogue, keys.holds, claim.key(keys)), 18
            claimed = words(claim.fingerprint, CLAIM_SECONDS)
        if cap is not None:
            count, claimed = count + (4 if claimed else 6), (claimed or words(b"", b"")) + packed_budget(cap)
        terms = packed_terms(account_version, catalogue_version, amount, required, limits)
        called, remembered = word(request_id.encode()), word(f"{self._owner}\t{head}".encode())
        entered = word(epoch.encode()) + claimed
        reply = await self._redis.run_packed(ADMIT, keys.account, count, where, called, terms, remembered, entered)
        if reply[0] == 1:
            self._replay_buffer.add_open(OpenCall(keys, request_id, epoch, amount, head, claim))
        elif reply[0] == Verdict.WRONG_EPOCH:
            self._epochs.mark_ended(keys.partition, epoch)
        return parse_admission(reply, epoch)

    async def settle(
        self,
        keys: AccountKeys,
        request_id: str,
        *,
        charge: int,
        tail: str,
        head: str = "",
        epoch: str = "",
        kept: ClaimOutcome | None = None,
    ) -> int | None:
        """Ends an admitted call at `charge` credits; gives the balance, or None if it was settled before.

        A call that was abandoned in the meantime is settled all the same, by a correction; and so is one whose hold
        Redis has lost, by its `head` and the `epoch` in which it was admitted, where they are known. The balance is
        None where only PostgreSQL can tell it, as of an account that went cold meanwhile. `kept` is what is left of
        the call's claim; its answer is stored where nothing of that has happened. Where another call has claimed the
        key meanwhile, this one ends abandoned, at no charge.
        """
        opened = self._replay_buffer.remove_open(request_id)
        if opened is not None:
            head, epoch = opened.head, opened.epoch
        if head and epoch != (self._epochs.current(keys.partition) or await self._epoch(keys)):
            await self._replay(SettledCall(keys, request_id, f"{head}\t{tail}", "", kept))
            return None
        claimed: tuple[bytes, ...] = ()
        called, ended = word(request_id.encode()), word(b"%d" % charge) + word(tail.encode())
        if kept is None:
            reply = await self._redis.run_packed(SETTLE, keys.account, 7, keys.settled_by, called, ended)
        else:
            claimed = (kept.claim.key(keys),)
            where = (keys.account, keys.holds, keys.journal, *claimed)
            known = (CLAIM_SECONDS, *kept.settle_arguments)
            reply = await self._redis.run(SETTLE, where, (request_id, charge, tail, *known))
        if reply[0] == _CLAIMED:
            await self.abandon(keys, request_id)
            return None
        if not reply[0]:
            swept = (keys.account, swept_key(keys.partition, request_id), keys.journal, keys.catalogue, *claimed)
            known = () if kept is None else (request_id, CLAIM_SECONDS, *kept.replay_arguments)
            reply = await self._redis.run(LATE, swept, (charge, tail, epoch if head else "", *known))
            if reply[0] == 2:
                self._epochs.mark_ended(keys.partition, epoch)
                await self._replay(SettledCall(keys, request_id, f"{head}\t{tail}", "", kept))
            if reply[0] > 1:
                return None
        if head:
            brief = None if kept is None else kept.without_response
            self._replay_buffer.add_settled(SettledCall(keys, request_id, f"{head}\t{tail}", reply[2].decode(), brief))
        balance: int | None = reply[1] if reply[0] else None
        return balance

    async def abandon(self, keys: AccountKeys, request_id: str, *, tail: str = ABANDONED) -> bool:
        """Ends a call that nobody is thought to be left to settle, at no charge; False if it was settled before.

        For SWEPT_SECONDS it is remembered, so that a settlement that comes in spite of it is not lost.
        """
        swept = (keys.account, keys.holds, keys.journal, swept_key(keys.partition, request_id))
        reply = await self._redis.run(SETTLE, swept, (request_id, 0, tail, SWEPT_SECONDS))
        return bool(reply[0])

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
    ) -> LoadResult:
        """Makes a cold account hot, with its open holds and what the journal charges past `counted_upto`.

        `balance` is without what the journal charges up to there. `calls` are those counted so far, by window, as
        "bucket count bucket count ..": buckets are numbered as `admit.lua` does, CLOCK_SKEW_MS late.
        """
        epoch = await self._epoch(keys)
        reply = await self._redis.run(
            LOAD,
            (keys.account, keys.catalogue, keys.holds, keys.journal),
            (
                epoch,
                str(keys.account_id),
                account_version,
                credit_seq,
                balance,
                catalogue_version,
                counted_upto,
                CLOCK_SKEW_MS,
                *calls,
            ),
        )
        if reply == LoadResult.WRONG_EPOCH:
            self._epochs.mark_ended(keys.partition, epoch)
        return LoadResult(reply)

    async def check_epochs(self) -> int:
        """Notices what has befallen Redis, and hands in what this process knows; gives how many epochs were entered.

        Raises MeterUnavailable.
        """
        return await self._epochs.check(self._replay_buffer.discard_through)

    async def account_snapshot(
        self, keys: AccountKeys, limits: Limits, cap: Cap | None = None
    ) -> AccountSnapshot | None:
        """What an admission under these limits would find at this moment; None for a cold account. Changes nothing.

        What counts against the cap is None too where it is not counted yet.
        """
        minute, hour, day = limits.per_window
        asked = (-1 if minute is None else minute, -1 if hour is None else hour, -1 if day is None else day)
        budget = () if cap is None else (str(cap.budget_id), cap.since, cap.keys)
        reply = await self._redis.run(PEEK, (keys.account, keys.catalogue), (*asked, *budget))
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

    async def apply_credits(self, keys: AccountKeys, *, credit_seq: int, amount: int) -> CreditChangeResult:
        """Applies one committed change of credits, exactly once and in order."""
        return CreditChangeResult(await self._redis.run(GRANT, (keys.account,), (credit_seq, amount)))

    async def unload(self, keys: AccountKeys) -> None:
        """Makes an account cold, so that its next call loads it from PostgreSQL, the journal and its holds."""
        await self._redis.call((b"DEL", keys.account))

    async def raise_account_version(self, keys: AccountKeys, version: int) -> None:
        """From the moment this returns no admission decided on an older version succeeds, on any gateway."""
        await self._redis.run(BUMP, (keys.account,), (version,))

    async def raise_catalogue_version(self, version: int) -> None:
        """The same for plans and permissions, in every partition. Where some cannot be told, the others are."""
        await asyncio.gather(*(self._redis.run(BUMP, (keys.catalogue,), (version,)) for keys in self._by_partition))

    async def versions(self, keys: AccountKeys) -> Versions:
        """The versions announced for an account; 0 where none is known, which no version that was read is below."""
        account, catalogue = await self._redis.pipeline(
            ((b"HGET", keys.account, b"v"), (b"HGET", keys.catalogue, b"v"))
        )
        return Versions(int(account or 0), int(catalogue or 0))

    async def _epoch(self, keys: AccountKeys) -> str:
        """The epoch that the account's partition is in. Raises MeterUnavailable; NotSent, so far nothing was asked."""
        epoch = self._epochs.current(keys.partition)
        if epoch is None:
            try:
                async with asyncio.timeout(REENTER_SECONDS if self._epochs.has_entered(keys.partition) else None):
                    epoch = await self._epochs.enter(keys.partition)
            except TimeoutError:
                raise NotSent("Redis has begun anew, and this process hands in what it knows") from None
            except (MeterUnavailable, MeterError) as error:
                raise NotSent(str(error)) from error
        return epoch

    async def _replay(self, call: SettledCall) -> None:
        epoch = await self._epoch(call.keys)
        if not await self._journal_again(call, epoch):
            self._epochs.mark_ended(call.keys.partition, epoch)
            raise MeterUnavailable("Redis was lost again")

    async def _hand_in(self, partition: int, epoch: str) -> None:
        """Tells a new epoch of the calls of this process: what Redis was told before, it may not know any more."""
        settled, opened = self._replay_buffer.take_settled(partition), self._replay_buffer.open_calls(partition)
        try:
            await in_batches([self._settle_again(call, epoch) for call in settled])
        except BaseException:
            for call in settled:
                self._replay_buffer.add_settled(call)
            raise
        await in_batches([self._hold_again(call, epoch) for call in opened])
        await self._give_back(partition)

    async def _settle_again(self, call: SettledCall, epoch: str) -> None:
        if not await self._journal_again(call, epoch):
            raise MeterUnavailable("Redis was lost again")

    async def _journal_again(self, call: SettledCall, epoch: str) -> bool:
        """Settles a call that Redis may have lost; False if that is in another epoch."""
        keys, kept = call.keys, call.kept
        claimed = () if kept is None else (kept.claim.key(keys),)
        known = () if kept is None else (CLAIM_SECONDS, *kept.replay_arguments)
        where = (keys.account, keys.catalogue, keys.holds, keys.journal, *claimed)
        entry_id = await self._redis.run(REPLAY, where, (epoch, call.request_id, call.record, *known))
        if entry_id == b"":
            return await self._journal_again(call.without_claim(ABANDONED), epoch)
        if entry_id is not None:
            brief = None if kept is None else kept.without_response
            self._replay_buffer.add_settled(call._replace(entry_id=entry_id.decode(), kept=brief))
        return entry_id is not None

    async def _hold_again(self, call: OpenCall, epoch: str) -> None:
        if not self._replay_buffer.is_open(call.request_id):
            return
        claim = call.claim
        claimed = () if claim is None else (claim.key(call.keys),)
        known = () if claim is None else (CLAIM_SECONDS, claim.fingerprint)
        where = (call.keys.account, call.keys.catalogue, call.keys.holds, *claimed)
        hold = f"{call.held}\t{self._owner}\t{call.head}"  # as `admit.lua` writes it
        if not await self._redis.run(RESTORE, where, (epoch, call.request_id, hold, *known)):
            raise MeterUnavailable("Redis was lost again")
        self._replay_buffer.update_open(call._replace(epoch=epoch))

    async def _give_back(self, partition: int) -> None:
        """Holds of ours that an older copy brought back: their calls have ended."""
        fields = await self._redis.call((b"HGETALL", self._by_partition[partition].holds))
        holds = dict(zip(fields[::2], fields[1::2], strict=True))
        for request_id, hold in holds.items():
            _, owner, head = hold.decode().split("\t", 2)
            if owner == self._owner and not self._replay_buffer.is_open(request_id.decode()):
                await self.abandon(self.keys(_user_of(head)), request_id.decode())


def _user_of(head: str) -> UUID:
    return UUID(head.split("\t")[_USER_ID])
