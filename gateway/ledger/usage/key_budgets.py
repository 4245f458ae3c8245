"""What API keys spent from a budget, which a key shares with all keys that it was rotated to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.usage.account_load import LAST_ID, RECORDED
from policies.access.key_budgets import Cap


def budget_keys(first: str) -> str:
    """SQL that selects the `id` of a key, given as an SQL expression, and of all keys that it was rotated to."""
    return f"""
        WITH RECURSIVE rotated AS (
             SELECT id FROM api_keys WHERE id = {first}
              UNION
             SELECT k.id FROM api_keys k JOIN rotated r ON k.rotated_from = r.id)
        SELECT id FROM rotated"""  # noqa: S608 - made of constants


_SPENT = text(f"""
    WITH keys AS ({budget_keys("CAST(:budget_id AS uuid)")})
    SELECT ARRAY(SELECT id FROM keys) AS key_ids, {LAST_ID} AS last_id, {RECORDED} AS recorded,
           (SELECT coalesce(sum(credits_charged), 0)::bigint
              FROM usage_tracking
             WHERE user_id = :user_id AND api_key_id IN (SELECT id FROM keys)
               AND created_at >= timestamptz 'epoch' + CAST(:since AS bigint) * interval '1 microsecond') AS credits
""")  # noqa: S608 - made of constants


@dataclass(frozen=True, slots=True)
class StoredBudget:
    """What PostgreSQL has of a budget. `last_id` and `recorded` are those of `StoredAccount`."""

    credits: int
    key_ids: tuple[UUID, ...]
    last_id: str
    recorded: Mapping[UUID, bool]


async def credits_spent(connection: AsyncConnection, user_id: UUID, cap: Cap) -> int:
    """What was spent in the period of the cap, without what only the journal and holds have."""
    return (await read(connection, user_id, cap, partition=-1, requests=())).credits


async def read(
    connection: AsyncConnection, user_id: UUID, cap: Cap, *, partition: int, requests: Sequence[tuple[UUID, int]]
) -> StoredBudget:
    """What was spent in the period of the cap, in one snapshot. `requests` are those of `account_load.read`."""
    parameters = {
        "user_id": user_id,
        "budget_id": cap.budget_id,
        "since": cap.since,
        "partition": partition,
        "request_ids": [request[0] for request in requests],
        "moments": [request[1] for request in requests],
    }
    row = (await connection.execute(_SPENT, parameters)).one()
    recorded = {UUID(request_id): is_open for request_id, is_open in row.recorded.items()}
    return StoredBudget(row.credits, tuple(row.key_ids), row.last_id, recorded)
