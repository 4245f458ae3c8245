"""What keys with a cap have spent: a key and all that came of it by rotation spend from one budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.usage.account_load import LAST_ID, WRITTEN
from policies.access.key_budgets import Cap


def budget_keys(first: str) -> str:
    """A query of the `id` of a key, by an SQL expression of it, and of all that came of it by rotation."""
    return f"""
        WITH RECURSIVE heirs AS (
             SELECT id FROM api_keys WHERE id = {first}
              UNION
             SELECT k.id FROM api_keys k JOIN heirs h ON k.rotated_from = h.id)
        SELECT id FROM heirs"""  # noqa: S608 - made of constants


_SPENT = text(f"""
    WITH keys AS ({budget_keys("CAST(:budget_id AS uuid)")})
    SELECT ARRAY(SELECT id FROM keys) AS key_ids, {LAST_ID} AS last_id, {WRITTEN} AS written,
           (SELECT coalesce(sum(credits_charged), 0)::bigint
              FROM usage_tracking
             WHERE user_id = :user_id AND api_key_id IN (SELECT id FROM keys)
               AND created_at >= timestamptz 'epoch' + CAST(:since AS bigint) * interval '1 microsecond') AS credits
""")  # noqa: S608 - made of constants


@dataclass(frozen=True, slots=True)
class Spent:
    """What PostgreSQL has of a budget. `last_id` and `written` are as of `cold.ColdAccount`."""

    credits: int
    key_ids: tuple[UUID, ...]
    last_id: str
    written: Mapping[UUID, bool]


async def credits_spent(connection: AsyncConnection, user_id: UUID, cap: Cap) -> int:
    """The same as far as PostgreSQL has it, for whoever only looks."""
    return (await read(connection, user_id, cap, partition=-1, requests=())).credits


async def read(
    connection: AsyncConnection, user_id: UUID, cap: Cap, *, partition: int, requests: Sequence[tuple[UUID, int]]
) -> Spent:
    """What was spent in the period of the cap, by one statement, hence in one snapshot. `requests` are as of `cold`."""
    parameters = {
        "user_id": user_id,
        "budget_id": cap.budget_id,
        "since": cap.since,
        "partition": partition,
        "request_ids": [request[0] for request in requests],
        "moments": [request[1] for request in requests],
    }
    row = (await connection.execute(_SPENT, parameters)).one()
    written = {UUID(request_id): is_open for request_id, is_open in row.written.items()}
    return Spent(row.credits, tuple(row.key_ids), row.last_id, written)
