"""All webhook events that failed are acted on again: in the order they came, one by one, until canceled."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.api.admin.background_runs import RunState
from gateway.api.admin.billing import replays
from gateway.api.admin.billing.replays import ReplayRun, runs_of_process
from gateway.api.checkout import CheckoutService
from gateway.api.unit_of_work import ChangePublisher, UnitOfWork
from gateway.ledger.payments import webhook_events
from tests.api.conftest import AdminApi


async def failed_events(admin_api: AdminApi, count: int, *, provider: str = "stripe") -> list[UUID]:
    found = []
    for _ in range(count):
        async with admin_api.database.transaction() as connection:
            stored = await webhook_events.record(
                connection,
                provider,
                provider_event_id=f"evt_{uuid4().hex}",
                event_type="invoice.paid",
                payload={},
                occurred_at=None,
            )
            event = None if stored is None else await webhook_events.get(connection, stored)
            assert event is not None
            await webhook_events.fail(connection, event, reason="away")
            found.append(event.id)
    return found


async def test_replay_advances_and_is_audited(admin_api: AdminApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "_PER_PAGE", 2)
    events = await failed_events(admin_api, 3)
    run = await admin_api.post("/webhook-events/replays", {"provider": "stripe"}, status=201)
    async with asyncio.timeout(30):
        while (found := await admin_api.get(f"/webhook-events/replays/{run['id']}"))["state"] == "running":
            assert found["replayed"] <= (found["events"] or 0)
    assert (found["state"], found["replayed"], found["failed"]) == ("done", found["events"], 0)
    assert found["events"] >= 3
    for event_id in events:
        assert (await admin_api.get(f"/webhook-events/{event_id}"))["status"] == "received"
        assert [entry["action"] for entry in await admin_api.audit(str(event_id))] == ["webhook_events.replay"]
    assert (await admin_api.get("/webhook-events/replays"))["data"][0] == found


async def test_replay_is_canceled_after_the_event_that_it_is_at(admin_api: AdminApi) -> None:
    events = await failed_events(admin_api, 3, provider="lemon_squeezy")
    acted_on: list[UUID] = []
    second = asyncio.Event()

    async def process(event_id: UUID) -> None:
        acted_on.append(event_id)
        if len(acted_on) == 2:
            second.set()
            await asyncio.Event().wait()

    runs = runs_of_process()
    run = runs.start(
        ReplayRun(provider="lemon_squeezy"),
        replays._advances(unit_of_work(admin_api), CheckoutService(process_event=process), "lemon_squeezy"),
    )
    async with asyncio.timeout(30):
        await second.wait()
    canceled = await runs.cancel(run.id)
    assert (canceled.state, canceled.events, canceled.replayed) == (RunState.CANCELED, 3, 1)
    assert acted_on == events[:2], "the oldest first"


def unit_of_work(admin_api: AdminApi) -> UnitOfWork:
    async def publish() -> Any:
        """Redis is told of nothing."""

    return UnitOfWork(admin_api.database, ChangePublisher(publish), actor="test")
