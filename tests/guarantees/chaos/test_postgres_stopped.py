"""PostgreSQL stops under load, frozen or killed: known keys are served, unknown ones get 503, no row is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_bytes
from uuid import uuid4

import pytest

from gateway.clock import monotonic_seconds
from gateway.embedded.endpoints import choose
from gateway.embedded.postgres import Postgres
from gateway.ledger.db import schema
from policies.access.keys import ENTROPY_BYTES, compose
from tests.guarantees.chaos.conftest import measured
from tests.guarantees.faults.parts import Store
from tests.guarantees.faults.records import violations
from tests.guarantees.simulation.installation import Installation, installed
from tests.guarantees.simulation.paced_clients import Customer, PacedClients
from tests.support.sampling import IS_FULL, seeded_random

AWAY_SECONDS = 300.0 if IS_FULL else 2.5  # each way
CLIENTS = 80 if IS_FULL else 8
PAUSE_SECONDS = 0.064  # with the upstream's slowness and the answer's way a client calls some 13 times a second
WRITTEN_SECONDS = 60.0
STRANGER_SECONDS = 0.5


@pytest.fixture
async def postgres(tmp_path: Path) -> AsyncIterator[Store]:
    folder = tmp_path / "postgres store"
    folder.mkdir()
    store = Store("postgres", Postgres(folder, durable=False), choose(None).postgres, folder / "postgres.lock")
    await store.start()
    yield store
    await store.stop()


async def test_postgres_stopped_leaves_known_keys_served(tmp_path: Path, postgres: Store) -> None:
    url = f"postgresql://gateway:{postgres.endpoint.password}@127.0.0.1:{postgres.endpoint.port}/gateway"
    await schema.upgrade(url)
    async with installed(
        tmp_path, database_url=url, chance=seeded_random("calls"), slowness_seconds=0.005
    ) as installation:
        await installation.callers.call_once()  # known, hot and cached from here on
        everybody = installation.callers.customers
        installation.callers.customers = [each for each in everybody if each != installation.narrow]
        for how in ("frozen", "killed"):
            await _run_without(installation, postgres, how)
        installation.callers.customers = everybody
        assert violations(await installation.records()) == []


async def _run_without(installation: Installation, postgres: Store, how: str) -> None:
    strangers = [PacedClients([url], [_stranger()], seeded_random("strangers")) for url in installation.callers.urls]
    async with installation.callers.calling(CLIENTS, pause_seconds=PAUSE_SECONDS):
        postgres.freeze() if how == "frozen" else postgres.kill_for_good()
        before, began = len(installation.callers.calls), monotonic_seconds()
        while monotonic_seconds() - began < AWAY_SECONDS:
            await asyncio.gather(*(each.call_once() for each in strangers))
            await asyncio.sleep(STRANGER_SECONDS)
        count, away_seconds = len(installation.callers.calls) - before, monotonic_seconds() - began
        postgres.thaw() if how == "frozen" else await postgres.start()
        returned = monotonic_seconds()
    await installation.settled()
    written_seconds = monotonic_seconds() - returned
    measured.append(
        f"PostgreSQL {how} for {away_seconds:.0f} s: {count} calls, {count / away_seconds:.0f}/s, the slowest in "
        f"{installation.callers.slowest_seconds:.2f} s; all rows there {written_seconds:.1f} s after its return"
    )
    assert set(installation.callers.statuses()) == {200}, installation.callers.refusals
    assert {status for each in strangers for status in each.statuses()} == {503}
    assert written_seconds < WRITTEN_SECONDS


def _stranger() -> Customer:
    """A customer with a well-formed key that does not exist."""
    return Customer(uuid4(), compose("gw", token_bytes(ENTROPY_BYTES)).secret)
