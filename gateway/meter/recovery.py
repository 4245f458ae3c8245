"""Replays to Redis what it may have lost: the calls of this process, whenever a partition enters another epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from itertools import islice
from typing import Any
from uuid import UUID

from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterError, MeterUnavailable, NotSent
from gateway.meter.epochs import EpochRegister, Epochs
from gateway.meter.idempotency import CLAIM_SECONDS
from gateway.meter.keys import AccountKeys, account_keys, partition_keys, swept_key
from gateway.meter.layout import HoldLine
from gateway.meter.replay_buffer import OpenCall, ReplayBuffer, Settlement
from gateway.meter.replies import Done, SettleResult
from gateway.meter.scripts import REPLAY_SETTLEMENT, RESTORE_HOLD, SETTLE
from policies.usage import records

# How long a settlement may come after its call was swept: from frozen gateways, and spools of machines that were down.
SWEPT_SECONDS = 7 * 86_400

# How long a call waits for an epoch that follows another, in which nothing is loaded for a while anyway.
REENTER_SECONDS = 0.05

# Few calls are replayed at once, so that a slow Redis answers all of them within its timeout.
REPLAY_BATCH = 25


class Recovery:
    """The epochs of all partitions, and the calls that this process replays in each new one."""

    def __init__(self, redis_client: RedisClient, partitions: int, *, owner: str, register: EpochRegister) -> None:
        self._redis = redis_client
        self._owner = owner
        self._by_partition = tuple(partition_keys(number) for number in range(partitions))
        self.buffer = ReplayBuffer()
        self.epochs = Epochs(redis_client, self._by_partition, register=register, replay=self._replay_partition)

    async def epoch(self, partition: int) -> str:
        """The epoch of a partition. Raises NotSent: the caller's command has not been sent yet."""
        epochs = self.epochs
        epoch = epochs.current(partition)
        if epoch is None:
            try:
                async with asyncio.timeout(REENTER_SECONDS if epochs.has_entered(partition) else None):
                    epoch = await epochs.enter(partition)
            except TimeoutError:
                raise NotSent("Redis has lost data, and this process replays what it knows") from None
            except (MeterUnavailable, MeterError) as error:
                raise NotSent(str(error)) from error
        return epoch

    async def replay(self, call: Settlement) -> None:
        """Settles a call that Redis may have lost. Raises MeterUnavailable."""
        epoch = await self.epoch(call.keys.partition)
        if not await self._replay_settlement(call, epoch):
            self.epochs.mark_ended(call.keys.partition, epoch)
            raise MeterUnavailable("Redis has lost data again")

    async def abandon(self, keys: AccountKeys, request_id: str, suffix: str) -> bool:
        """Settles a call at no charge; False if it was settled before.

        Stores its prefix for SWEPT_SECONDS, so that a settlement that comes in spite of it corrects this.
        """
        where = (keys.account, keys.holds, keys.journal, swept_key(keys.partition, request_id))
        arguments = SETTLE.ordered(request_id=request_id, charge=0, suffix=suffix, remember_seconds=SWEPT_SECONDS)
        reply = await self._redis.run(SETTLE, where, arguments)
        return bool(reply[0] == SettleResult.SETTLED)

    async def _replay_partition(self, partition: int, epoch: str) -> None:
        settled, open_calls = self.buffer.take_settled(partition), self.buffer.open_calls(partition)
        try:
            await _in_batches([self._replay_or_raise(call, epoch) for _, call in settled])
        except BaseException:
            for entry_id, call in settled:
                self.buffer.add_settled(call, entry_id)
            raise
        await _in_batches([self._restore_hold(call, epoch) for call in open_calls])
        await self._abandon_ended(partition)

    async def _replay_or_raise(self, call: Settlement, epoch: str) -> None:
        if not await self._replay_settlement(call, epoch):
            raise MeterUnavailable("Redis has lost data again")

    async def _replay_settlement(self, call: Settlement, epoch: str) -> bool:
        """False if the partition is in another epoch."""
        call = call.without_response()
        keys, outcome = call.keys, call.claim_outcome
        where = [keys.account, keys.catalogue, keys.holds, keys.journal]
        arguments: dict[str, Any] = {"epoch": epoch, "request_id": call.request_id, "record": call.record}
        if outcome is not None:
            where.append(outcome.claim.key(keys))
            arguments |= {"claim_seconds": CLAIM_SECONDS, "fingerprint": outcome.claim.fingerprint}
            arguments |= outcome.optional_response
        entry_id = await self._redis.run(REPLAY_SETTLEMENT, where, REPLAY_SETTLEMENT.ordered(**arguments))
        if entry_id == b"":  # another call has claimed the key
            return await self._replay_settlement(call.abandoned(), epoch)
        if entry_id is not None:
            self.buffer.add_settled(call, entry_id.decode())
        return entry_id is not None

    async def _restore_hold(self, call: OpenCall, epoch: str) -> None:
        if call.request_id not in self.buffer.under_way:
            return
        keys, claim = call.keys, call.claim
        where = [keys.account, keys.catalogue, keys.holds]
        hold = HoldLine(call.amount, self._owner, call.prefix).packed()
        arguments: dict[str, Any] = {"epoch": epoch, "request_id": call.request_id, "hold": hold}
        if claim is not None:
            where.append(claim.key(keys))
            arguments |= {"claim_seconds": CLAIM_SECONDS, "fingerprint": claim.fingerprint}
        if await self._redis.run(RESTORE_HOLD, where, RESTORE_HOLD.ordered(**arguments)) == Done.NO:
            raise MeterUnavailable("Redis has lost data again")
        self.buffer.update_open(call._replace(epoch=epoch))

    async def _abandon_ended(self, partition: int) -> None:
        """Settles this process's holds that an older copy of Redis brought back although their calls have ended."""
        fields = await self._redis.call((b"HGETALL", self._by_partition[partition].holds))
        for request_id, packed in dict(zip(fields[::2], fields[1::2], strict=True)).items():
            hold = HoldLine.unpack(packed)
            if hold.owner == self._owner and request_id.decode() not in self.buffer.under_way:
                account_id = UUID(records.identity(hold.prefix)["user_id"])
                keys = account_keys(account_id, partition=partition)
                await self.abandon(keys, request_id.decode(), records.abandoned_suffix())


async def _in_batches(calls: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Raises what the first to fail raises; the batches behind it do not begin."""
    waiting = iter(calls)
    try:
        while batch := list(islice(waiting, REPLAY_BATCH)):
            await asyncio.gather(*batch)
    finally:
        for call in waiting:
            call.close()
