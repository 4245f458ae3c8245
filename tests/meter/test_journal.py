"""The journal gives what is there in order, and forgets exactly what it is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from gateway.meter.client.client import RedisClient
from gateway.meter.client.topology import SLOTS, key_slot
from gateway.meter.journal import MAX_ENTRIES_PER_READ, START, Backlog, Journal
from gateway.meter.keys import partition_keys
from tests.guarantees.faults.cluster import ClusterServers
from tests.meter.conftest import OwnServer

PARTITIONS = 3


@pytest.fixture(params=["server", "cluster"])
async def journal(server: OwnServer, cluster: ClusterServers, request: pytest.FixtureRequest) -> AsyncIterator[Journal]:
    """Three empty streams, in a database of their own; or spread over masters."""
    redis_client = RedisClient(
        cluster.url if request.param == "cluster" else f"{server.url.removesuffix('/0')}/2", timeout_seconds=5
    )
    await redis_client.open()
    await redis_client.pipeline([(b"DEL", key) for number in range(PARTITIONS) for key in partition_keys(number)])
    yield Journal(redis_client, PARTITIONS)
    await redis_client.close()


async def _append(journal: Journal, partition: int, *records: str, entry_id: str = "*") -> list[str]:
    key = f"gw:{{p{partition:02d}}}:j"
    replies = [await journal._redis.call((b"XADD", key, entry_id, b"r", record)) for record in records]
    return [reply.decode() for reply in replies]


def test_partitions_of_these_tests_are_on_several_masters() -> None:
    assert len({key_slot(partition_keys(number).journal) * 3 // SLOTS for number in range(PARTITIONS)}) > 1


async def test_journal_is_read_in_the_order_of_its_entries(journal: Journal) -> None:
    ids = await _append(journal, 1, "a\tb", "ü")
    batches = await journal.read({0: START, 1: START}, 100)
    assert list(batches) == [1]
    assert [(entry.id, entry.line) for entry in batches[1].entries] == [(ids[0], b"a\tb\n"), (ids[1], "ü\n".encode())]
    assert batches[1].last_id == ids[-1]


async def test_journal_read_after_an_id_excludes_it(journal: Journal) -> None:
    first, second, third = await _append(journal, 0, "1", "2", "3")
    assert [entry.id for entry in (await journal.read({0: first}, 100))[0].entries] == [second, third]
    assert await journal.read({0: third}, 100) == {}


async def test_journal_read_is_bounded(journal: Journal) -> None:
    for partition in range(PARTITIONS):
        await _append(journal, partition, *(str(n) for n in range(60)))
    batches = await journal.read(dict.fromkeys(range(PARTITIONS), START), 90)
    assert [len(batch.entries) for batch in batches.values()] == [30, 30, 30]
    await _append(journal, 0, *(str(n) for n in range(MAX_ENTRIES_PER_READ)))
    assert len((await journal.read({0: START}, 10**6))[0].entries) == MAX_ENTRIES_PER_READ


async def test_journal_trim_deletes_up_to_an_id_and_nothing_more(journal: Journal) -> None:
    await _append(journal, 0, "1", entry_id="7-0")
    await _append(journal, 0, "2", entry_id="7-1")
    await _append(journal, 0, "3", entry_id="7-2")
    await _append(journal, 1, "4")
    await journal.trim({0: "7-1"})
    assert [entry.id for entry in (await journal.read({0: START}, 100))[0].entries] == ["7-2"]
    await journal.trim({0: "7-0"})  # an older writer comes late
    assert await journal.lengths() == {0: 1, 1: 1}
    assert await journal.length() == 2
    await journal.trim({})


async def test_backlog_is_as_old_as_its_oldest_entry(journal: Journal) -> None:
    assert await journal.backlog() == Backlog(0, 0.0)
    seconds, _ = await journal._redis.call((b"TIME",))
    await _append(journal, 2, "old", entry_id=f"{(int(seconds) - 90) * 1000}-0")
    await _append(journal, 0, "new")
    backlog = await journal.backlog()
    assert backlog.entries == 2
    assert 90 <= backlog.oldest_seconds < 100


async def test_backlog_with_an_entry_from_the_future_has_no_age(journal: Journal) -> None:
    seconds, _ = await journal._redis.call((b"TIME",))
    await _append(journal, 2, "early", entry_id=f"{(int(seconds) + 90) * 1000}-0")
    assert await journal.backlog() == Backlog(1, 0.0)


def test_backlog_tells_until_when_postgresql_has_everything() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert Backlog(0, 0.0).written_until(now) == now
    assert now - timedelta(seconds=92) < Backlog(2, 90.0).written_until(now) < now - timedelta(seconds=90)
    assert Backlog(1, 0.0).written_until(now) < now
