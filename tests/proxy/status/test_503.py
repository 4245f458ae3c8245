"""503: a store of the gateway is out of reach, or the upstream is overloaded. Never a 401."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from secrets import token_bytes
from urllib.parse import urlsplit

import pytest

from gateway.ledger.accounts import api_keys
from gateway.listener.exchange_runner import ExchangeRunner
from policies.access.keys import ENTROPY_BYTES, compose
from tests.guarantees.faults.proxy import FaultProxy
from tests.proxy.conftest import Configure, Serve
from tests.proxy.data_plane import DataPlane, RedisState
from tests.proxy.problems import assert_problem
from tests.proxy.upstream import Exchange
from tests.support.polling import eventually


@pytest.fixture
async def valkey(redis_url: str) -> AsyncIterator[FaultProxy]:
    async with _before(redis_url) as proxy:
        yield proxy


@pytest.fixture
async def postgres(migrated_url: str) -> AsyncIterator[FaultProxy]:
    async with _before(migrated_url) as proxy:
        yield proxy


class TestMetering:
    @pytest.fixture
    async def data_plane(self, valkey: FaultProxy, redis_url: str, configure: Configure, serve: Serve) -> DataPlane:
        """With a long Redis timeout, until a test shortens it."""
        return await serve(configure(redis__url=valkey.through(redis_url), redis__timeout="5s"))

    async def test_redis_outage_admits_nothing(self, data_plane: DataPlane, valkey: FaultProxy) -> None:
        account = await data_plane.create_account()
        assert (await data_plane.get(account)).status_code == 200
        valkey.freeze()
        for _ in range(3):
            async with data_plane.assert_unchanged(account):
                with data_plane.short_redis_timeout():
                    answer = await data_plane.get(account)
            assert_problem(answer, 503, "metering_unavailable", retry_after=1)
            assert answer.headers["retry-after"] == "1"
        valkey.thaw()

    async def test_indeterminate_admission_is_released(self, data_plane: DataPlane, valkey: FaultProxy) -> None:
        account = await data_plane.create_account()
        assert (await data_plane.get(account)).status_code == 200
        valkey.replies.delay_seconds = lambda: 0.3
        with data_plane.short_redis_timeout():
            answer = await data_plane.get(account)
        assert_problem(answer, 503, "metering_unavailable", retry_after=1)
        assert await data_plane.redis_state(account) == RedisState(98, 1, (2, 2, 2))
        valkey.replies.delay_seconds = lambda: 0.0
        assert await data_plane.settled_state(account) == RedisState(99, 0, (2, 2, 2))
        assert len(data_plane.upstream.exchanges) == 1
        rows = await data_plane.usage_rows(account)
        assert [(row["outcome"], row["error_code"], row["credits_charged"]) for row in rows] == [
            ("succeeded", None, 1),
            ("abandoned", "metering_unavailable", 0),
        ]

    async def test_shutdown_during_admission_releases_the_hold(
        self, valkey: FaultProxy, redis_url: str, configure: Configure, serve: Serve
    ) -> None:
        data_plane = await serve(configure(redis__url=valkey.through(redis_url), redis__timeout="10s"))
        account = await data_plane.create_account()
        assert (await data_plane.get(account)).status_code == 200
        valkey.replies.delay_seconds = lambda: 0.5
        asking = asyncio.create_task(data_plane.get(account))
        async with asyncio.timeout(10):
            while not await data_plane.holds(account):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.005)
        for task in asyncio.all_tasks():
            if getattr(task.get_coro(), "__qualname__", "") == ExchangeRunner._run.__qualname__:
                task.cancel()
        assert_problem(await asking, 503, "shutting_down", retry_after=1)
        valkey.replies.delay_seconds = lambda: 0.0
        assert await data_plane.settled_state(account) == RedisState(99, 0, (2, 2, 2))
        rows = await data_plane.usage_rows(account)
        assert [(row["outcome"], row["credits_charged"]) for row in rows] == [("succeeded", 1), ("abandoned", 0)]
        assert len(data_plane.upstream.exchanges) == 1

    async def test_call_during_an_outage_is_settled_when_redis_is_back(
        self, data_plane: DataPlane, valkey: FaultProxy
    ) -> None:
        account = await data_plane.create_account()
        may_answer = asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            await may_answer.wait()
            await exchange.reply(200, b"done", gateway_credits="4")

        data_plane.upstream.answer = answer
        running = asyncio.create_task(data_plane.get(account))
        await eventually(lambda: data_plane.upstream.exchanges)
        valkey.freeze()
        may_answer.set()
        with data_plane.short_redis_timeout():
            answered = await running
        assert (answered.status_code, answered.content) == (200, b"done")
        assert answered.headers["x-credits-remaining"] == "96"
        valkey.reset()  # the frozen bytes are lost, and the settlement with them
        valkey.thaw()
        assert await data_plane.settled_state(account) == RedisState(96, 0, (1, 1, 1))
        assert (await data_plane.usage_row(account))["credits_charged"] == 4

    async def test_revoked_key_is_refused_as_revoked_during_an_outage(
        self, data_plane: DataPlane, valkey: FaultProxy
    ) -> None:
        account = await data_plane.create_account()
        async with data_plane.database.transaction() as connection:
            await api_keys.revoke(connection, account.key_id)
        valkey.freeze()
        with data_plane.short_redis_timeout():
            assert_problem(await data_plane.get(account), 401, "key_revoked")
        valkey.thaw()


class TestAccounts:
    @pytest.fixture
    async def data_plane(
        self, postgres: FaultProxy, migrated_url: str, configure: Configure, serve: Serve
    ) -> DataPlane:
        return await serve(configure(database__url=postgres.through(migrated_url)))

    async def test_unknown_key_is_unavailable_not_invalid(self, data_plane: DataPlane, postgres: FaultProxy) -> None:
        account = await data_plane.create_account()
        unknown = compose("gw", token_bytes(ENTROPY_BYTES)).secret
        await _away(postgres)
        for key in (account.key, unknown):
            answer = await data_plane.http.get("/v1/things/1", headers={"x-api-key": key})
            assert_problem(answer, 503, "accounts_unavailable", retry_after=1)
            assert answer.headers["retry-after"] == "1"
        assert data_plane.upstream.exchanges == []

    async def test_cached_callers_are_served_without_the_database(
        self, data_plane: DataPlane, postgres: FaultProxy
    ) -> None:
        account = await data_plane.create_account()
        assert (await data_plane.get(account)).status_code == 200
        await _away(postgres)
        for left in (98, 97, 96):
            assert (await data_plane.get(account)).headers["x-credits-remaining"] == str(left)
        principals = data_plane.handler._principals
        principals._max_age_seconds = 0.0
        assert (await data_plane.get(account)).status_code == 200
        principals._max_stale_seconds = 0.0
        assert_problem(await data_plane.get(account), 503, "accounts_unavailable", retry_after=1)

    async def test_cached_callers_do_not_wait_for_a_database_that_hangs(
        self, data_plane: DataPlane, postgres: FaultProxy
    ) -> None:
        account = await data_plane.create_account()
        assert (await data_plane.get(account)).status_code == 200
        postgres.freeze()
        data_plane.handler._principals._max_age_seconds = 0.0
        assert [(await data_plane.get(account)).status_code for _ in range(5)] == [200] * 5
        assert data_plane.handler._principals._loads, "it is still being read"
        postgres.thaw()

    async def test_announced_change_is_never_overlooked(self, data_plane: DataPlane, postgres: FaultProxy) -> None:
        account = await data_plane.create_account()
        assert (await data_plane.get(account)).status_code == 200
        async with data_plane.database.transaction() as connection:
            await api_keys.revoke(connection, account.key_id)
        await data_plane.publish()
        await _away(postgres)
        assert_problem(await data_plane.get(account), 503, "accounts_unavailable", retry_after=1)

    async def test_account_not_loaded_waits_for_its_balance(self, data_plane: DataPlane, postgres: FaultProxy) -> None:
        account = await data_plane.create_account()
        assert (await data_plane.get(account)).status_code == 200
        await data_plane._write_journal()
        await data_plane.redis.delete(data_plane.meter.keys(account.user_id).account.decode())
        await _away(postgres)
        assert_problem(await data_plane.get(account), 503, "accounts_unavailable", retry_after=1)
        postgres.thaw()


class TestUpstream:
    async def test_full_upstream_queue_is_overload(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        may_answer = asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            await may_answer.wait()
            await exchange.reply()

        data_plane.upstream.answer = answer
        running = asyncio.create_task(data_plane.get(account, "/v1/narrow"))
        await eventually(lambda: data_plane.upstream.exchanges)
        answered = await data_plane.get(account, "/v1/narrow")
        assert_problem(answered, 503, "upstream_overloaded")
        assert answered.headers["x-credits-charged"] == "0"
        may_answer.set()
        assert (await running).status_code == 200
        assert await data_plane.redis_state(account) == RedisState(99, 0, (2, 2, 2))
        assert len(data_plane.upstream.exchanges) == 1
        outcomes = {
            (row["outcome"], row["error_code"], row["status_code"]) for row in await data_plane.usage_rows(account)
        }
        assert outcomes == {("succeeded", None, 200), ("upstream_unreachable", "upstream_overloaded", 503)}

    async def test_failing_upstream_target_is_ejected(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        codes = [(await data_plane.get(account, "/v1/nobody")).json()["code"] for _ in range(6)]
        assert codes == ["upstream_unreachable"] * 5 + ["upstream_overloaded"]


def _before(url: str) -> FaultProxy:
    parts = urlsplit(url)
    return FaultProxy(parts.hostname or "", parts.port or 0)


async def _away(proxy: FaultProxy) -> None:
    """Like a crashed server: connections are reset, new ones refused."""
    assert proxy._server is not None
    proxy._server.close()
    proxy.reset()
    await eventually(lambda: not proxy.connections)
