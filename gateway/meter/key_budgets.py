"""What keys with a cap have spent in a period: counted once from all who know of it, then kept by the scripts."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from gateway.meter.client.client import RedisClient
from gateway.meter.keys import AccountKeys
from gateway.meter.replies import LoadResult
from gateway.meter.scripts import COUNT
from policies.access.key_budgets import Cap


async def count(
    redis_client: RedisClient, keys: AccountKeys, cap: Cap, *, spent: int, counted_upto: str, key_ids: Sequence[UUID]
) -> LoadResult:
    """Begins to count what is spent from a budget: `spent`, what the journal charges past this entry, and open holds.

    `key_ids` are all keys of the budget. LOST stands for a cold account too. Raises MeterUnavailable.
    """
    where = (keys.account, keys.catalogue, keys.holds, keys.journal)
    known: tuple[str | int, ...] = (str(cap.budget_id), cap.since, spent, counted_upto, *map(str, key_ids))
    return LoadResult(await redis_client.run(COUNT, where, known))
