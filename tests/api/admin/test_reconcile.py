"""Reconciliation reports differences, and repairs them on request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from gateway.api.admin.background_runs import RunState
from gateway.api.admin.dependencies import ReconciledPage
from gateway.api.admin.records.reconcile_runs import NOTHING, ReconcileRun, _advances, runs_of_process
from gateway.api.errors import Conflict
from gateway.ledger.db.session import DatabaseUnavailable
from tests.api.conftest import AdminApi


async def test_difference_is_reported_then_repaired_and_audited(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    await admin_api.load_account(user["id"])
    async with admin_api.database.transaction() as connection:
        forge = text("UPDATE user_credits SET current_credits = 7 WHERE user_id = CAST(:id AS uuid)")
        await connection.execute(forge, {"id": user["id"]})
    result = await admin_api.post("/reconcile", {})
    assert {each["book"] for each in of(result, user)} == {"ledger", "grants", "redis"}
    assert not any(each["repaired"] for each in of(result, user))
    ended = await admin_api.post("/reconcile", {"repair": True})
    assert ended["repaired"] >= 3
    assert all(each["repaired"] for each in of(ended, user))
    assert of(await admin_api.post("/reconcile"), user) == []
    noted = [entry for entry in await admin_api.audit(user["id"]) if entry["action"].startswith("reconcile.")]
    assert {entry["actor"] for entry in noted} == {"admin"}


def of(result: dict[str, Any], user: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in result["found"] if each["user_id"] == user["id"]]


def a_run() -> ReconcileRun:
    return ReconcileRun(repairs=False, report=NOTHING)


async def test_run_is_canceled_and_keeps_what_it_compared() -> None:
    going_on = asyncio.Event()

    async def pages() -> AsyncIterator[ReconciledPage]:
        yield ReconciledPage(10, 3, ())
        going_on.set()
        await asyncio.Event().wait()

    runs = runs_of_process()
    run = runs.start(a_run(), _advances(pages()))
    await going_on.wait()
    with pytest.raises(Conflict):
        runs.start(a_run(), _advances(pages()))
    canceled = await runs.cancel(run.id)
    assert (canceled.state, canceled.report.accounts, canceled.report.hot) == (RunState.CANCELED, 10, 3)
    assert canceled.ended_at is not None
    assert await runs.cancel(run.id) == canceled
    assert runs.start(a_run(), _advances(pages())).state is RunState.RUNNING
    await runs.cancel(runs.newest_first()[0].id)


async def test_run_that_a_store_ends_says_so() -> None:
    async def pages() -> AsyncIterator[ReconciledPage]:
        yield ReconciledPage(1, 0, ())
        raise DatabaseUnavailable("away")

    runs = runs_of_process()
    run = runs.start(a_run(), _advances(pages()))
    async with asyncio.timeout(10):
        while runs.get(run.id).state is RunState.RUNNING:  # noqa: ASYNC110 - the task that ends is the run's own
            await asyncio.sleep(0)
    assert runs.get(run.id).state is RunState.FAILED
