"""Accounts that are known to both stores, on partitions of each test's own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from gateway.ledger.credits import grants
from gateway.ledger.db.session import Database
from gateway.meter.admissions import Admission
from gateway.meter.client.client import RedisClient
from gateway.meter.holds import Holds
from gateway.meter.journal import Journal
from gateway.meter.meter import Meter
from gateway.meter.replay_buffer import Settlement
from gateway.meter.scripts import SCRIPTS
from gateway.proxy.admission.account_loader import AccountLoader
from policies.access.limits import Limits
from policies.usage.records import CURRENT, field_of, prefix_of, suffix_of
from tests.ledger.make import a_user

RECORD_FIELD = field_of(CURRENT)  # of a journal entry

PARTITIONS = 4
MOMENT = 1_790_000_000_000_000  # when calls were admitted, in microseconds since the epoch
UNLIMITED = Limits((None, None, None), None)


@dataclass
class Backend:
    """Both stores and what stands on them, for one test. `redis` looks behind the meter's back."""

    url: str
    database: Database
    redis: Redis
    redis_client: RedisClient
    meter: Meter
    journal: Journal
    holds: Holds
    users: list[UUID] = field(default_factory=list)

    async def a_user(self, *, credits_given: int = 100) -> UUID:
        """An account with credits, known to PostgreSQL, cold in Redis."""
        async with self.database.transaction() as connection:
            user = await a_user(connection)
            if credits_given:
                await self._give(user.id, credits_given, connection=connection)
        self.users.append(user.id)
        return user.id

    async def give(self, user_id: UUID, amount: int) -> None:
        async with self.database.transaction() as connection:
            await self._give(user_id, amount, connection=connection)

    async def _give(self, user_id: UUID, amount: int, *, connection: object) -> None:
        await grants.grant(connection, user_id, amount=amount, source="promo", reason="test", actor="test")  # type: ignore[arg-type] # a connection

    async def load(self, user_id: UUID) -> None:
        """Makes the account hot, as its first call would."""
        await AccountLoader(self.redis_client, self.meter, self.database).load(self.meter.keys(user_id))

    async def admit(
        self, user_id: UUID, *, amount: int = 1, meter: Meter | None = None, prefix: str | None = None
    ) -> str:
        """An admitted call's request id."""
        request_id = str(uuid4()) if prefix is None else prefix.split("\t")[0]
        admission = await self.try_admit(user_id, request_id, amount=amount, meter=meter, prefix=prefix)
        assert admission.verdict.name == "ADMITTED"
        return request_id

    async def try_admit(
        self, user_id: UUID, request_id: str, *, amount: int = 1, meter: Meter | None = None, prefix: str | None = None
    ) -> Admission:
        used = meter or self.meter
        return await used.admit(
            used.keys(user_id),
            request_id=request_id,
            account_version=1,
            catalogue_version=1,
            amount=amount,
            required=max(amount, 1),
            limits=UNLIMITED,
            prefix=prefix or a_prefix(user_id, request_id),
        )

    async def settle(self, user_id: UUID, request_id: str, *, charge: int = 1) -> int | None:
        return await self.meter.settle(Settlement(self.meter.keys(user_id), request_id, charge, a_suffix(charge)))

    async def call(self, user_id: UUID, *, charge: int = 1) -> str:
        """A whole call: admitted and settled."""
        request_id = await self.admit(user_id, amount=charge)
        assert await self.settle(user_id, request_id, charge=charge) is not None
        return request_id

    async def spoil(self, user_id: UUID, record: bytes) -> None:
        """Puts something into the account's journal that settling would not."""
        await self.redis.xadd(self.meter.keys(user_id).journal, {RECORD_FIELD: record})

    async def balance(self, user_id: UUID) -> grants.Balance:
        async with self.database.read() as connection:
            found = await grants.get_balance(connection, user_id)
        assert found is not None
        return found


def a_prefix(user_id: UUID, request_id: str, *, moment: int | None = None, key_id: UUID | None = None) -> str:
    known = {
        "request_id": request_id,
        "created_at": moment or MOMENT,
        "api_key_id": key_id,
        "user_id": user_id,
        "endpoint": "analyze",
        "method": "POST",
        "path": "/v1/analyze",
        "usage_type": "ai_generation",
        "product_count": 1,
    }
    return prefix_of(known)


def a_suffix(charge: int, outcome: str = "succeeded") -> str:
    known = {"outcome": outcome, "status_code": 200, "credits_charged": charge}
    return suffix_of(known)


@pytest.fixture
async def backend(own_database_url: str, redis_url: str) -> AsyncIterator[Backend]:
    """Redis database of its own: workers go through whole partitions."""
    url = f"{redis_url.rpartition('/')[0]}/{next(_databases)}"
    database, redis_client = (
        Database(own_database_url, pool_size=8),
        RedisClient(url, timeout_seconds=5, scripts=SCRIPTS),
    )
    await redis_client.open()
    async with Redis.from_url(url) as redis:
        await redis.flushdb()
        yield Backend(
            url=url,
            database=database,
            redis=redis,
            redis_client=redis_client,
            meter=Meter(redis_client, partitions=PARTITIONS, owner="proxy-1"),
            journal=Journal(redis_client, PARTITIONS),
            holds=Holds(redis_client, PARTITIONS),
        )
    await redis_client.close()
    await database.close()


_databases = itertools.cycle(range(1, 16))  # a server has 16 unless told otherwise; 0 is everybody's
