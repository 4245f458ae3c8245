"""At the end of a period, used credits do not expire as well, however late their usage is written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.subscriptions import lifecycle
from gateway.meter.client.errors import MeterUnavailable
from gateway.workers.billing.credit_expiry import CreditExpiryWorker
from gateway.workers.billing.renewals import RenewalWorker
from gateway.workers.usage.usage_writer import UsageWriter
from tests.ledger.make import a_line
from tests.workers.conftest import RECORD_FIELD, Backend

GRACE = timedelta(days=3)
GIVEN, USED = 10, 4


async def _subscriber(backend: Backend) -> tuple[UUID, datetime]:
    """An account whose credits do not roll over, and the end of its period."""
    user_id = await backend.a_user(credits_given=0)
    terms = PlanTerms(name=uuid4().hex, price=Decimal(0), credits_per_period=GIVEN, credits_rollover=False)
    async with backend.database.transaction() as connection:
        plan = await plans.create(connection, terms)
        now = datetime.now(UTC) - timedelta(days=10)
        begun = await lifecycle.start(connection, user_id, plan_id=plan.id, now=now)
    return user_id, begun.current_period_end


async def _used(backend: Backend, user_id: UUID, *, ago: timedelta) -> None:
    """A call that ended `ago` and is in the journal only."""
    at = datetime.now(UTC) - ago
    record = a_line(user_id, at=at, credits_charged=USED).strip()
    await backend.redis.xadd(
        backend.meter.keys(user_id).journal, {RECORD_FIELD: record}, id=f"{at.timestamp() * 1000:.0f}-0"
    )


async def _moved(backend: Backend, now: Callable[[], datetime]) -> int:
    """Runs both workers, in either order."""
    keeper = CreditExpiryWorker(backend.database, backend.journal, grace=GRACE, now=now)
    mover = RenewalWorker(backend.database, backend.journal, grace=GRACE, now=now)
    return await keeper.run_once() + await mover.run_once()


async def _expired(backend: Backend) -> int:
    async with backend.database.read() as connection:
        query = "SELECT coalesce(sum(amount), 0) FROM credit_ledger WHERE kind = 'expiry'"
        return -int((await connection.execute(text(query))).scalar_one())


@pytest.mark.parametrize("ago", [timedelta(0), timedelta(hours=1)], ids=["the last second", "away over the end"])
async def test_used_credits_do_not_expire_however_late_they_are_written(backend: Backend, ago: timedelta) -> None:
    user_id, end = await _subscriber(backend)
    late = end + ago / 2
    await _used(backend, user_id, ago=ago)
    assert await _moved(backend, lambda: late) == 0
    assert await UsageWriter(backend.database, backend.journal).run_once() == 1
    assert await _moved(backend, lambda: late) > 0
    balance = await backend.balance(user_id)
    assert (await _expired(backend), balance.current_credits) == (GIVEN - USED, GIVEN)
    assert (balance.total_credits_used, balance.total_credits_expired) == (USED, GIVEN - USED)


async def test_usage_after_the_end_delays_no_renewal(backend: Backend) -> None:
    user_id, end = await _subscriber(backend)
    await _used(backend, user_id, ago=timedelta(hours=1))
    assert await _moved(backend, lambda: end + timedelta(hours=2)) > 0
    assert (await backend.balance(user_id)).current_credits == GIVEN


async def test_renewal_is_immediate_with_an_empty_journal(backend: Backend) -> None:
    user_id, end = await _subscriber(backend)
    assert await _moved(backend, lambda: end - timedelta(microseconds=1)) == 0
    assert await _moved(backend, lambda: end) > 0
    assert (await backend.balance(user_id)).current_credits == GIVEN


async def test_renewal_waits_while_redis_is_away(backend: Backend) -> None:
    user_id, end = await _subscriber(backend)
    await backend.redis_client.close()
    for worker in (
        CreditExpiryWorker(backend.database, backend.journal, grace=GRACE, now=lambda: end),
        RenewalWorker(backend.database, backend.journal, grace=GRACE, now=lambda: end),
    ):
        with pytest.raises(MeterUnavailable):
            await worker.run_once()
    assert await _expired(backend) == 0
    assert (await backend.balance(user_id)).period_end == end
