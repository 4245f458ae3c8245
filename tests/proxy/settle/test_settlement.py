"""Every settlement reaches Redis once, however long Redis is away, and whichever process dies meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway import metrics
from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterError, MeterUnavailable
from gateway.meter.idempotency import ClaimOutcome, IdempotencyClaim
from gateway.meter.keys import AccountKeys
from gateway.meter.layout import AccountState
from gateway.meter.meter import Meter
from gateway.meter.replay_buffer import Settlement
from gateway.meter.scripts import SCRIPTS
from gateway.proxy.settle import settlement as module
from gateway.proxy.settle.settlement import Settler
from gateway.proxy.settle.settlement_record import encode
from gateway.proxy.settle.spool import Spool, frame
from policies.access.limits import Limits
from policies.usage import records
from policies.usage.records import CURRENT, field_of
from tests.guarantees.faults.proxy import FaultProxy
from tests.proxy.conftest import Configure, Serve
from tests.proxy.data_plane import ANSWER_SECONDS
from tests.support.polling import POLL_SECONDS, eventually
from tests.support.redis_timeouts import short_redis_timeout

RECORD_FIELD = field_of(CURRENT).encode()

UNLIMITED = Limits((None, None, None), None)


@dataclass(frozen=True)
class SettlementStores:
    """Redis by way of a fault proxy, and one account; `redis` bypasses the proxy."""

    proxy: FaultProxy
    redis_client: RedisClient
    redis: Any  # a Redis whose replies are bytes, which its types do not know
    meter: Meter
    folder: Path
    keys: AccountKeys

    @asynccontextmanager
    async def settler(self, owner: str = "me") -> AsyncIterator[Settler]:
        async with Settler(self.meter, Spool(self.folder, owner)) as settler:
            yield settler

    async def admit(
        self, number: int = 0, keys: AccountKeys | None = None, *, claim: IdempotencyClaim | None = None
    ) -> Settlement:
        """Admits a call that holds one credit; gives its settlement, which charges `number`."""
        where = keys or self.keys
        request_id = str(uuid4())
        admission = await self.meter.admit(
            where,
            request_id=request_id,
            account_version=1,
            catalogue_version=1,
            amount=1,
            required=1,
            limits=UNLIMITED,
            prefix=request_id,
            claim=claim,
        )
        assert admission.verdict.name == "ADMITTED"
        return Settlement(where, request_id, number, f"succeeded\t{number}")

    async def load(self, keys: AccountKeys) -> AccountKeys:
        await self.meter.load(keys, account_version=1, credit_seq=0, balance=10_000, catalogue_version=1)
        return keys

    async def balance(self) -> int:
        state = await self.redis.hget(self.keys.account, "s")
        assert isinstance(state, bytes)
        return AccountState.unpack(state).balance

    async def journaled_charges(self) -> list[tuple[str, int]]:
        """Request ids and charges in the order of the journal; the partition is of this test alone."""
        entries = await self.redis.xrange(self.keys.journal)
        records = [fields[RECORD_FIELD].decode().split("\t") for _, fields in entries]
        return [(request_id, int(charge)) for request_id, _, charge, *_ in records]

    async def restore_redis(self) -> None:
        self.proxy.thaw()
        await eventually(lambda: self.redis_client.is_connected)

    def files(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self.folder.iterdir()}


@pytest.fixture
async def settlement_stores(redis_url: str, redis: Redis, tmp_path: Path) -> AsyncIterator[SettlementStores]:
    parts = 90  # the last partition is of this test alone
    async with FaultProxy("127.0.0.1", int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        redis_client = RedisClient(proxy.through(redis_url), timeout_seconds=5, scripts=SCRIPTS)
        await redis_client.open()
        meter = Meter(redis_client, partitions=parts, owner="me")
        keys = meter.keys(UUID(int=uuid4().int >> 32 << 32 | parts - 1))
        await redis.delete(keys.journal.decode(), keys.holds.decode())
        settlement_stores = SettlementStores(proxy, redis_client, redis, meter, tmp_path / "spool", keys)
        await settlement_stores.load(keys)
        yield settlement_stores
        proxy.thaw()
        await redis_client.close()


def charges_of(settlements: list[Settlement]) -> list[tuple[str, int]]:
    return [(each.request_id, each.charge) for each in settlements]


async def test_settlement_that_redis_takes_is_not_spooled(settlement_stores: SettlementStores) -> None:
    async with settlement_stores.settler() as settler:
        assert await settler.settle(await settlement_stores.admit(3)) == 9997
        assert (settler.pending, settlement_stores.files()) == (0, {"me.spool2": 0})
    assert settlement_stores.files() == {}


async def test_settlement_that_redis_does_not_take_is_on_disk_before_settle_returns(
    settlement_stores: SettlementStores,
) -> None:
    async with settlement_stores.settler() as settler:
        calls = [await settlement_stores.admit(number) for number in range(20)]
        settlement_stores.proxy.freeze()
        with short_redis_timeout(settlement_stores.redis_client):
            assert await settler.settle(calls[0]) is None
        assert settlement_stores.files()["me.spool2"] == len(frame(encode(calls[0])))
        assert await asyncio.gather(*map(settler.settle, calls[1:])) == [None] * 19
        assert settler.pending == metrics.SPOOL_ENTRIES._value.get() == 20
        with pytest.raises(MeterUnavailable):
            await settler.run_once()
        assert settler.pending == 20
        await settlement_stores.restore_redis()
        assert await settler.run_once() == 20
        assert (settler.pending, settlement_stores.files()) == (0, {"me.spool2": 0})
        assert metrics.SPOOL_ENTRIES._value.get() == 0
        assert await settler.run_once() == 0
    assert sorted(await settlement_stores.journaled_charges()) == sorted(charges_of(calls))
    assert await settlement_stores.balance() == 10_000 - sum(range(20))


@pytest.mark.parametrize(("answer", "left"), [(b"told" * 1000, b""), (b"", b""), (None, None)])
async def test_spooled_claim_has_no_stored_response(
    settlement_stores: SettlementStores, answer: bytes | None, left: bytes | None
) -> None:
    claim = IdempotencyClaim(uuid4().hex, "f" * 64)
    call = (await settlement_stores.admit(3, claim=claim))._replace(claim_outcome=ClaimOutcome(claim, answer))
    async with settlement_stores.settler("first") as settler:
        settler.enqueue(call)
        assert settlement_stores.files()["first.spool2"] < 600
    async with settlement_stores.settler("second") as settler:
        assert await settler.run_once() == 1
    found = await settlement_stores.redis.hgetall(claim.key(settlement_stores.keys))
    assert found.get(b"a") == left
    assert bool(found) is (left is not None)
    assert await settlement_stores.balance() == 9997


async def test_spooled_settlements_are_settled_in_order(settlement_stores: SettlementStores) -> None:
    async with settlement_stores.settler() as settler:
        calls = [await settlement_stores.admit(number) for number in range(3 * module.BATCH)]
        for call in calls:
            settler.enqueue(call)
        assert await settler.run_once() == len(calls)
    assert await settlement_stores.journaled_charges() == charges_of(calls)


async def test_spool_of_a_dead_process_is_settled_by_the_next(settlement_stores: SettlementStores) -> None:
    async with settlement_stores.settler("first") as settler:
        calls = [await settlement_stores.admit(number) for number in range(1000)]
        for call in calls:
            settler.enqueue(call)
    async with settlement_stores.settler("second") as settler:
        assert settler.pending == 1000
        assert await settler.run_once() == 1000
        assert settlement_stores.files() == {"second.spool2": 0}
    assert await settlement_stores.journaled_charges() == charges_of(calls)


async def test_spool_of_a_dead_sibling_is_settled(
    settlement_stores: SettlementStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sibling was started before, and saw the other one alive."""
    monkeypatch.setattr(module, "RECOVERY_INTERVAL_SECONDS", 0.0)
    async with settlement_stores.settler("second") as settler:
        async with settlement_stores.settler("first") as dying:
            call = await settlement_stores.admit(5)
            dying.enqueue(call)
            assert await settler.run_once() == 0
        assert await settler.run_once() == 1
        assert settlement_stores.files() == {"second.spool2": 0}
    assert await settlement_stores.journaled_charges() == charges_of([call])


async def test_interrupted_spool_replay_settles_nothing_twice(settlement_stores: SettlementStores) -> None:
    async with settlement_stores.settler("first") as settler:
        calls = [await settlement_stores.admit(number) for number in range(1000)]
        for call in calls:
            settler.enqueue(call)
    async with settlement_stores.settler("second") as settler:
        replaying = asyncio.create_task(settler.run_once())
        async with asyncio.timeout(10):
            while not await settlement_stores.journaled_charges():  # noqa: ASYNC110 - Redis has no event to offer
                await asyncio.sleep(0)
        settlement_stores.proxy.freeze()
        with short_redis_timeout(settlement_stores.redis_client), pytest.raises(MeterUnavailable):
            await replaying
        assert 0 < settler.pending <= 1000
    await settlement_stores.restore_redis()
    async with settlement_stores.settler("third") as settler:
        await settler.run_once()
        assert settlement_stores.files() == {"third.spool2": 0}
    assert sorted(await settlement_stores.journaled_charges()) == sorted(charges_of(calls))
    assert await settlement_stores.balance() == 10_000 - sum(range(1000))  # exact in spite of it


async def test_settlement_of_a_swept_call_corrects_it(settlement_stores: SettlementStores) -> None:
    call = await settlement_stores.admit(7)
    async with settlement_stores.settler("first") as settler:
        settler.enqueue(call)
    assert await settlement_stores.meter.abandon(settlement_stores.keys, call.request_id, suffix="abandoned\t0")
    assert await settlement_stores.balance() == 10_000
    for _ in range(2):
        async with settlement_stores.settler("second") as settler:
            settler.enqueue(call)
            await settler.run_once()
    assert await settlement_stores.balance() == 9_993
    assert await settlement_stores.journaled_charges() == [(call.request_id, 0), (call.request_id, 7)]


async def test_settlement_is_queued_when_its_caller_is_cancelled(settlement_stores: SettlementStores) -> None:
    async with settlement_stores.settler() as settler:
        call = await settlement_stores.admit(2)
        settlement_stores.proxy.freeze()
        task = asyncio.create_task(settler.settle(call))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert settler.pending == 1
        await settlement_stores.restore_redis()
        await settler.run_once()
    assert await settlement_stores.journaled_charges() == charges_of([call])
    assert await settlement_stores.balance() == 9_998


def _full(*_: object) -> int:
    raise OSError(28, "No space left on device")


async def test_full_disk_keeps_settlements_in_memory(
    settlement_stores: SettlementStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with settlement_stores.settler() as settler:
        calls = [await settlement_stores.admit(number) for number in range(5)]
        failures, lost = metrics.SPOOL_FAILURES._value.get(), metrics.SETTLEMENTS_LOST._value.get()
        settler.enqueue(calls[0])
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", _full)
            for call in calls[1:]:
                settler.enqueue(call)
        assert settler.pending == 5
        assert metrics.SPOOL_FAILURES._value.get() - failures == 4
        assert metrics.SETTLEMENTS_LOST._value.get() == lost
        settlement_stores.proxy.freeze()
        with short_redis_timeout(settlement_stores.redis_client), pytest.raises(MeterUnavailable):
            await settler.run_once()
        assert settler.pending == 5
        await settlement_stores.restore_redis()
        assert await settler.run_once() == 5
    assert sorted(await settlement_stores.journaled_charges()) == sorted(charges_of(calls))


async def test_memory_is_bounded(settlement_stores: SettlementStores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IN_MEMORY", 3)
    lost = metrics.SETTLEMENTS_LOST._value.get()
    async with settlement_stores.settler() as settler:
        calls = [await settlement_stores.admit(number) for number in range(5)]
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", _full)
            for call in calls:
                settler.enqueue(call)
        assert settler.pending == 3
        assert metrics.SETTLEMENTS_LOST._value.get() - lost == 2
        assert await settler.run_once() == 3


async def test_charges_are_kept_before_what_only_gives_back(
    settlement_stores: SettlementStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_IN_MEMORY", 3)
    async with settlement_stores.settler() as settler:
        charged = [await settlement_stores.admit(number) for number in range(1, 4)]
        nothing = [Settlement(settlement_stores.keys, str(uuid4()), 0, records.abandoned_suffix()) for _ in range(50)]
        with monkeypatch.context() as patched, capture_logs() as logs:
            patched.setattr(os, "write", _full)
            for each in [*nothing, *charged, *nothing]:
                settler.enqueue(each)
        assert settler.pending == 3
        assert [entry["event"] for entry in logs] == ["settlement_not_spooled", "settlement_lost"], (
            "by rate, not by call"
        )
        assert await settler.run_once() == 3
    assert sorted(await settlement_stores.journaled_charges()) == sorted(charges_of(charged))


async def test_settlement_that_redis_refuses_delays_no_other(settlement_stores: SettlementStores) -> None:
    bad_keys = settlement_stores.meter.keys(UUID(int=settlement_stores.keys.account_id.int ^ 1 << 100))
    async with settlement_stores.settler() as settler:
        bad, *good = [
            await settlement_stores.admit(4, await settlement_stores.load(bad_keys)),
            *[await settlement_stores.admit(n) for n in range(300)],
        ]
        state = await settlement_stores.redis.dump(bad_keys.account)
        await settlement_stores.redis.set(bad_keys.account, "of another type")
        assert await settler.settle(bad) is None
        for call in good:
            settler.enqueue(call)
        for _ in range(2):
            with pytest.raises(MeterError, match="WRONGTYPE"):
                await settler.run_once()
        assert await settlement_stores.journaled_charges() == charges_of(good)
        assert settler.pending == 1
        assert settlement_stores.files()["me.spool2"] > 0, "it must outlive the process"
        await settlement_stores.redis.restore(bad_keys.account, 0, state, replace=True)
        assert await settler.run_once() == 1
        assert settlement_stores.files() == {"me.spool2": 0}
    assert await settlement_stores.journaled_charges() == charges_of([*good, bad])


@pytest.mark.parametrize("record", [b"[]", b"{", b'["a", "no uuid", 1, ""]', b'{"a": 1}', b"\xff"])
async def test_spooled_record_that_is_no_settlement_is_set_aside(
    settlement_stores: SettlementStores, record: bytes
) -> None:
    call = await settlement_stores.admit(1)
    settlement_stores.folder.mkdir()
    (settlement_stores.folder / "dead.spool").write_bytes(frame(record) + frame(encode(call)))
    async with settlement_stores.settler() as settler:
        assert await settler.run_once() == 1
        assert sorted(settlement_stores.files()) == ["dead.damaged", "me.spool2"]
    assert await settlement_stores.journaled_charges() == charges_of([call])


async def test_spool_preserves_any_text(settlement_stores: SettlementStores) -> None:
    call = (await settlement_stores.admit(1))._replace(record_suffix='succeeded\t1\\n "quoted" \u2028 ümläut 🙂')
    async with settlement_stores.settler() as settler:
        settler.enqueue(call)
        await settler.run_once()
    ((_, fields),) = await settlement_stores.redis.xrange(settlement_stores.keys.journal.decode())
    record, _, balance_after = fields[RECORD_FIELD].decode().rpartition("\t")
    assert (record, balance_after) == (
        f"{call.request_id}\t{call.record_suffix}",
        str(await settlement_stores.balance()),
    )


async def test_refused_call_that_never_reached_redis_is_not_spooled(
    redis_url: str, configure: Configure, serve: Serve
) -> None:
    """A long outage of Redis must not fill the disk."""
    async with FaultProxy("127.0.0.1", int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        data_plane = await serve(configure(redis__url=proxy.through(redis_url), redis__timeout="5s"))
        account, settler = await data_plane.create_account(), data_plane.handler._settler
        # Tests before this one leave epochs in Redis that PostgreSQL does not know: others are begun.
        async with asyncio.timeout(ANSWER_SECONDS):
            while (await data_plane.get(account)).status_code != 200:  # noqa: ASYNC110 - it offers no event
                await asyncio.sleep(POLL_SECONDS)
        proxy.freeze()
        with data_plane.short_redis_timeout():
            assert (await data_plane.get(account)).status_code == 503
        pending = settler.pending
        assert pending <= 1, "only the one that may have been admitted"
        for _ in range(20):
            assert (await data_plane.get(account)).status_code == 503
        assert settler.pending == pending
        proxy.thaw()
        await data_plane.settled_state(account)
