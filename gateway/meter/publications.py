"""Publishes to Redis what PostgreSQL has committed: versions, and changes of credits.

A publication holds the epochs of all partitions as they were before the entries were read from PostgreSQL. A new epoch
begins when either store has gone back, so nothing is published that PostgreSQL may have lost since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from uuid import UUID

from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterUnavailable
from gateway.meter.client.packing import Command
from gateway.meter.keys import AccountKeys, PartitionKeys, account_keys, partition_keys, partition_of
from gateway.meter.layout import EPOCH_FIELD, PUBLISHED_FIELD
from gateway.meter.replies import CreditChangeResult, RaiseResult
from gateway.meter.scripts import APPLY_CREDITS, MARK_PUBLISHED, RAISE_VERSION


class EpochEnded(MeterUnavailable):
    """A new epoch has begun. What was read from PostgreSQL before must be read again."""


class PostgresqlBehind(MeterUnavailable):
    """PostgreSQL has lost commits that Redis was told of. A new epoch is about to begin."""


class Publication:
    """One publication. Its methods raise MeterUnavailable; EpochEnded where the partition's epoch has ended.

    `published` is how many publications Redis knew of in each partition.
    """

    def __init__(
        self, redis_client: RedisClient, keys: tuple[PartitionKeys, ...], marks: list[tuple[str, int]]
    ) -> None:
        self._redis = redis_client
        self._keys = keys
        self._epochs = [epoch for epoch, _ in marks]
        self.published = [count for _, count in marks]

    @classmethod
    async def open(cls, redis_client: RedisClient, partitions: int) -> Publication:
        """Call it before the entries are read."""
        keys = tuple(partition_keys(number) for number in range(partitions))
        asked: list[Command] = [(b"HMGET", each.catalogue, EPOCH_FIELD, PUBLISHED_FIELD) for each in keys]
        found = await redis_client.pipeline(asked)
        return cls(redis_client, keys, [((epoch or b"").decode(), int(count or 0)) for epoch, count in found])

    def partition_of(self, account_id: UUID) -> int:
        return partition_of(account_id, len(self._keys))

    async def apply_credits(self, account_id: UUID, *, credit_seq: int, amount: int) -> CreditChangeResult:
        """Applies one change of credits, exactly once and in order."""
        keys = self._account(account_id)
        epoch = self._epochs[keys.partition]
        arguments = APPLY_CREDITS.ordered(epoch=epoch, credit_seq=credit_seq, amount=amount)
        result = CreditChangeResult(await self._redis.run(APPLY_CREDITS, (keys.account, keys.catalogue), arguments))
        if result is CreditChangeResult.WRONG_EPOCH:
            raise EpochEnded("Redis is in a new epoch")
        return result

    async def unload(self, account_id: UUID) -> None:
        """Unloads an account, so that its next call loads it from PostgreSQL, the journal and its holds."""
        await self._redis.call((b"DEL", self._account(account_id).account))

    async def raise_account_version(self, account_id: UUID, version: int) -> None:
        """From the moment this returns, no gateway admits a call that was decided on an older version."""
        keys = self._account(account_id)
        await self._raise_version(keys.account, keys.partition, version)

    async def raise_catalogue_version(self, version: int) -> None:
        """The same for plans and permissions, in every partition. Raises after all partitions were tried."""
        raising = [self._raise_version(keys.catalogue, number, version) for number, keys in enumerate(self._keys)]
        for result in await asyncio.gather(*raising, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def mark(self, published: Mapping[int, int]) -> None:
        """Stores what PostgreSQL counts of publications by partition. Only for counts that are committed."""
        await asyncio.gather(
            *(
                self._redis.run(
                    MARK_PUBLISHED,
                    (self._keys[partition].catalogue,),
                    MARK_PUBLISHED.ordered(epoch=self._epochs[partition], published=count),
                )
                for partition, count in published.items()
            )
        )

    def _account(self, account_id: UUID) -> AccountKeys:
        return account_keys(account_id, partition=self.partition_of(account_id))

    async def _raise_version(self, key: bytes, partition: int, version: int) -> None:
        arguments = RAISE_VERSION.ordered(epoch=self._epochs[partition], version=version)
        where = (key, self._keys[partition].catalogue)
        if await self._redis.run(RAISE_VERSION, where, arguments) == RaiseResult.WRONG_EPOCH:
            raise EpochEnded("Redis is in a new epoch")
