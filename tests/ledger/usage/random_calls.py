"""Calls of two days as they come: in batches, some twice, some swept and settled late, and filters that find them."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables.usage import SUMMED
from gateway.ledger.usage.history import UsageFilter
from gateway.ledger.usage.ingestion import correct, ingest
from tests.ledger.make import NOON, a_line

HOURS = 30
BEGIN = NOON + timedelta(days=4000)  # no other test has calls then
FILTERS = (
    UsageFilter(),
    UsageFilter(endpoint="chat"),
    UsageFilter(plan_id="pro", usage_source="reported"),
    UsageFilter(model="m-1"),
    UsageFilter(outcome="abandoned"),
)


def _columns(random: Random) -> dict[str, Any]:
    """What a call may have, and may lack."""
    counts = {name: random.choice((None, 0, random.randint(1, 2**40))) for name in SUMMED[2:8]}
    return {
        **counts,
        "endpoint": random.choice(("analyze", "chat")),
        "plan_id": random.choice((None, "free", "pro")),
        "model": random.choice((None, "m-1", "m-2")),
        "usage_source": random.choice((None, "reported", "estimated")),
        "cost_usd": random.choice((None, "0.000001", "12.5")),
        "product_count": random.choice((None, 1, 7)),
        "request_bytes": random.choice((None, 100)),
        "response_time_ms": random.choice((None, random.randint(0, 5000))),
        "credits_charged": random.randint(0, 9),
        "outcome": random.choice(("succeeded", "upstream_error", "client_aborted")),
    }


def an_instant(random: Random) -> datetime:
    return BEGIN + timedelta(seconds=random.randint(0, HOURS * 3600), microseconds=random.randint(0, 999_999))


async def write_calls(connection: AsyncConnection, random: Random) -> None:
    """Batches of calls, some written twice, some swept as abandoned and settled late."""
    for _ in range(6):
        lines, late = [], []
        for _ in range(random.randint(1, 40)):
            fixed: dict[str, Any] = {"request_id": str(uuid4()), "at": an_instant(random)}
            user, columns = uuid4(), _columns(random)
            if random.random() < 0.2:
                lines.append(a_line(user, **fixed, **columns | {"outcome": "abandoned", "credits_charged": 0}))
                late.append(a_line(user, **fixed, **columns))
            else:
                lines.append(a_line(user, **fixed, **columns))
        await ingest(connection, lines + random.sample(lines, len(lines) // 3))
        if late:
            await correct(connection, late + late[:1])
            await correct(connection, late)
