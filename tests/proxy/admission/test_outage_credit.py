"""Outage credit: calls without Redis up to the configured credits, charged once when Redis is back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from gateway.meter.admissions import Admission
from gateway.meter.replies import Verdict
from gateway.proxy.admission.outage_credit import FEATURE, OutageCredit
from policies.access.limits import Limits
from policies.model import Plan
from tests.guarantees.faults.proxy import FaultProxy
from tests.proxy.conftest import Configure, Serve
from tests.proxy.data_plane import Account, DataPlane
from tests.proxy.problems import assert_problem
from tests.support.polling import eventually

UNLIMITED = Limits((None, None, None), None)
ID = uuid4()


class TestServing:
    @pytest.fixture(autouse=True)
    def _quiet(self) -> Iterator[None]:
        """Workers that fail without Redis log tracebacks, which take long to render."""
        with capture_logs():
            yield

    @pytest.fixture
    async def valkey(self, redis_url: str) -> AsyncIterator[FaultProxy]:
        port = int(redis_url.rpartition(":")[2].partition("/")[0])
        async with FaultProxy("127.0.0.1", port) as proxy:
            yield proxy

    @pytest.fixture
    async def data_plane(self, valkey: FaultProxy, redis_url: str, configure: Configure, serve: Serve) -> DataPlane:
        places = {"redis__url": valkey.through(redis_url), "redis__timeout": "5s"}
        return await serve(configure(**places, redis__on_outage={"float": 3}))

    async def test_outage_credit_is_served_and_charged_once_afterwards(
        self, data_plane: DataPlane, valkey: FaultProxy
    ) -> None:
        account = await data_plane.create_account()
        assert "gateway-mode" not in (await data_plane.get(account)).headers
        before = _metric("gateway_float_calls_total")
        valkey.freeze()
        for left in (2, 1, 0):
            with data_plane.short_redis_timeout():
                answer = await data_plane.get(account)
            assert answer.status_code == 200
            assert (answer.headers["gateway-mode"], answer.headers["x-credits-remaining"]) == ("float", str(left))
        assert_problem(await data_plane.get(account), 503, "metering_unavailable", retry_after=1)
        assert _metric("gateway_float_calls_total") - before == 3
        assert _metric("gateway_float_unsettled") == data_plane.handler._settler.pending == 3
        await _restore_redis(data_plane, valkey)
        assert await _charges(data_plane, account) == [1, 1, 1, 1]
        assert await data_plane.stored_balance(account) == 96
        answer = await data_plane.get(account)
        assert (answer.status_code, answer.headers["x-credits-remaining"]) == (200, "95")
        assert (await data_plane.redis_state(account)).in_flight == 0
        assert _metric("gateway_float_unsettled") == 0

    async def test_outage_credit_refuses_idempotent_calls_and_leaves_their_key_free(
        self, data_plane: DataPlane, valkey: FaultProxy
    ) -> None:
        account = await data_plane.create_account()
        await data_plane.get(account)
        valkey.freeze()
        with data_plane.short_redis_timeout():
            answer = await data_plane.post(account, idempotency_key="made-before")
        assert_problem(answer, 503, "metering_unavailable", retry_after=1)
        await _restore_redis(data_plane, valkey)
        assert (await data_plane.post(account, idempotency_key="made-before")).status_code == 200
        assert await data_plane.stored_balance(account) == 98

    async def test_outage_credit_refuses_keys_with_a_cap(self, data_plane: DataPlane, valkey: FaultProxy) -> None:
        account = await data_plane.create_account(key={"credit_cap": 9})
        assert (await data_plane.get(account)).status_code == 200
        valkey.freeze()
        with data_plane.short_redis_timeout():
            assert_problem(await data_plane.get(account), 503, "metering_unavailable", retry_after=1)
        await _restore_redis(data_plane, valkey)
        assert await _charges(data_plane, account) == [1]

    async def test_plan_feature_overrides_the_configured_outage_credit(
        self, data_plane: DataPlane, valkey: FaultProxy
    ) -> None:
        refused = await data_plane.create_account(features={FEATURE: 0})
        generous = await data_plane.create_account(features={FEATURE: 5})
        for account in (refused, generous):
            assert (await data_plane.get(account)).status_code == 200
        valkey.freeze()
        with data_plane.short_redis_timeout():
            assert_problem(await data_plane.get(refused), 503, "metering_unavailable", retry_after=1)
        assert [(await data_plane.get(generous)).status_code for _ in range(6)] == [200] * 5 + [503]
        await _restore_redis(data_plane, valkey)
        assert await _charges(data_plane, refused) == [1]
        assert await _charges(data_plane, generous) == [1] * 6


async def _restore_redis(data_plane: DataPlane, valkey: FaultProxy) -> None:
    valkey.thaw()
    await eventually(lambda: data_plane.handler._settler.pending == 0, timeout_seconds=30)


async def _charges(data_plane: DataPlane, account: Account) -> list[int]:
    return [row["credits_charged"] for row in await data_plane.usage_rows(account) if row["outcome"] == "succeeded"]


def _metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


class TestRoom:
    """What the process alone allows one account."""

    @pytest.fixture
    def clock(self) -> list[float]:
        return [1000.0]

    @pytest.fixture
    def outage_credit(self, clock: list[float]) -> OutageCredit:
        return OutageCredit(10, monotonic=lambda: clock[0])

    def test_outage_credit_is_limited_by_the_last_balance(self, outage_credit: OutageCredit) -> None:
        outage_credit.record_admission(ID, _plan(), Admission(Verdict.ADMITTED, 2, (1, 1, 1), (60, 60, 60)))
        assert [_admit(outage_credit) is not None for _ in range(3)] == [True, True, False]

    def test_outage_credit_is_released_by_settlement(self, outage_credit: OutageCredit) -> None:
        assert [_admit(outage_credit, amount=4) is not None for _ in range(3)] == [True, True, False]
        outage_credit.release("0")
        assert _admit(outage_credit, amount=4, request_id="more") is not None

    def test_outage_credit_counts_calls_that_redis_admitted(
        self, outage_credit: OutageCredit, clock: list[float]
    ) -> None:
        limits = Limits((5, None, None), None)
        outage_credit.record_admission(ID, _plan(), Admission(Verdict.ADMITTED, 100, (3, 3, 3), (60, 60, 60)))
        assert [_admit(outage_credit, limits=limits, amount=0) is not None for _ in range(3)] == [True, True, False]
        clock[0] += 62
        assert [_admit(outage_credit, limits=limits, amount=0) is not None for _ in range(6)] == [True] * 5 + [False]

    def test_outage_credit_tells_what_is_left_of_windows_that_redis_counted(self, outage_credit: OutageCredit) -> None:
        limits = Limits((5, 20, None), None)
        outage_credit.record_admission(ID, _plan(), Admission(Verdict.ADMITTED, 100, (3, 9, 9), (60, 60, 60)))
        admissions = [_admit(outage_credit, limits=limits, amount=0) for _ in range(2)]
        assert [each.used[:2] for each in admissions if each is not None] == [(4, 10), (5, 11)]

    def test_outage_credit_counts_calls_of_an_earlier_outage_once(self, outage_credit: OutageCredit) -> None:
        limits = Limits((5, None, None), None)
        for name in ("first", "second"):
            assert _admit(outage_credit, limits=limits, request_id=name) is not None
            outage_credit.release(name)
        outage_credit.record_admission(ID, _plan(), Admission(Verdict.ADMITTED, 100, (3, 3, 3), (60, 60, 60)))
        assert [_admit(outage_credit, limits=limits, amount=0) is not None for _ in range(3)] == [True, True, False]

    def test_outage_credit_counts_ended_calls_as_credits_only(self, outage_credit: OutageCredit) -> None:
        limits = Limits((None, None, None), 1)
        assert _admit(outage_credit, limits=limits, amount=1, request_id="first") is not None
        outage_credit.record_end("first")
        assert _admit(outage_credit, limits=limits, amount=9, request_id="second") is not None
        outage_credit.record_end("second")
        assert _admit(outage_credit, limits=limits, amount=1) is None

    def test_outage_credit_limits_calls_in_flight(self, outage_credit: OutageCredit) -> None:
        limits = Limits((None, None, None), 1)
        admission = _admit(outage_credit, limits=limits, request_id="first")
        assert admission is not None
        assert admission.epoch == ""
        assert _admit(outage_credit, limits=limits) is None
        outage_credit.release("first")
        assert _admit(outage_credit, limits=limits) is not None

    def test_outage_credit_is_off_by_default(self) -> None:
        assert _admit(OutageCredit(None)) is None


def _admit(
    outage_credit: OutageCredit, *, limits: Limits = UNLIMITED, amount: int = 1, request_id: str | None = None
) -> Admission | None:
    name = request_id or str(len(outage_credit._account_ids))
    return outage_credit.admit(ID, name, plan=_plan(), limits=limits, amount=amount, required=amount)


def _plan() -> Plan:
    return Plan("p", "P", 1, {})
