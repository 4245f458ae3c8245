"""The scripts do what a brute-force model does, whatever the order of calls and however the clock moves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.meter import meter as meter_module
from gateway.meter.admissions import Admission
from gateway.meter.client.client import RedisClient
from gateway.meter.journal import is_correction
from gateway.meter.layout import AccountState, KeyBudget
from gateway.meter.meter import CLOCK_SKEW_MS, Meter
from gateway.meter.publications import Publication
from gateway.meter.replay_buffer import Settlement
from gateway.meter.replies import LoadResult, Verdict
from gateway.meter.scripts import ACCOUNT_SNAPSHOT, ADMIT, LOAD_ACCOUNT, SCRIPTS, Script
from policies.access.admission import AccountSnapshot, check_snapshot
from policies.access.key_budgets import Cap
from policies.access.limits import WINDOW_SECONDS, WINDOWS, Limits
from policies.model import Plan, Refused, Window
from policies.usage.records import BALANCE_AFTER, copy_line, parse_line, prefix_of, suffix_of
from tests.meter.conftest import OwnServer
from tests.meter.model import Account, Model, step_ms

T = TypeVar("T")

NAMES = ("anna", "bert")
IDS = {name: UUID(int=0x1111_7000_8000_0000_0000_0000_0000_0000 + number) for number, name in enumerate(NAMES)}
# Of each account one key for itself, and two of which the second comes of the first by rotation, some day.
KEYS = {name: tuple(UUID(int=IDS[name].int + 10 * number) for number in (1, 2, 3)) for name in NAMES}
START_MS = 1_790_000_000_123
TIME, TEST_TIME = "redis.call('TIME')", "redis.call('HMGET', 'test:clock', 's', 'us')"

NAME = st.sampled_from(NAMES)
LIMIT = st.one_of(st.none(), st.integers(1, 3), st.integers(0, 12))
LIMITS = st.builds(Limits, st.tuples(LIMIT, LIMIT, LIMIT), st.one_of(st.none(), st.none(), st.integers(0, 5)))
VERSION = st.sampled_from((1, 2, 9, 10, 99, 100))  # with as text another order than as numbers
KEY = st.sampled_from((0, 0, 1, 1, 2))
CAPS = st.one_of(st.none(), st.integers(0, 40), st.integers(30, 200))
PERIOD_MS = st.sampled_from((0, 0, -70_000, 5_000, 400_000))  # when it starts, from now; one that starts later is ahead
CHARGES = st.tuples(*[st.integers(0, 7)] * 3)
VERSION_DRIFT = st.sampled_from((0, 0, 0, 0, 0, 0, -1, 1))
# Around the steps of the windows and their ends, where the edges are.
GAP_MS = st.one_of(
    st.sampled_from(
        (0, 1, 999, 1_000, 59_000, 60_000, 61_000, 1_440_000, 3_600_000, 3_660_000, 86_400_000, 87_840_000)
    ),
    st.integers(0, 5_000),
    st.integers(0, 300_000),
    st.integers(0, 20_000_000),
)
CLOCK_STEP_MS = st.one_of(
    st.integers(0, 1_500),
    st.integers(0, 70_000),
    st.integers(0, 4_000_000),
    st.integers(0, 200_000_000),
    st.integers(-5_000, 0),
    st.integers(-200_000_000, 0),
)


# How many examples is the profile's business; how long they take is that of a machine that may be busy.
SETTINGS = settings(stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Bench:
    """A meter on a real server whose clock is ours, driven from code that cannot wait."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self.redis_client = RedisClient(url, timeout_seconds=5, scripts=SCRIPTS)
        self.meter = Meter(self.redis_client, partitions=1, owner="gw-1")
        self.keys = {name: self.meter.keys(account_id) for name, account_id in IDS.items()}
        self.run(self.redis_client.open())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(coroutine)

    def publication(self) -> Publication:
        return self.run(self.meter.publication())

    def begin_anew(self) -> None:
        """An empty server, and a process that knows of nothing before."""
        self.call("FLUSHDB")
        self.meter = Meter(self.redis_client, partitions=1, owner="gw-1")
        self.run(self.meter._epochs.enter(0))

    def call(self, *command: bytes | str | int) -> Any:
        return self.run(self.redis_client.call(command))

    def set_clock(self, clock_ms: int) -> None:
        self.call("HSET", "test:clock", "s", clock_ms // 1000, "us", clock_ms % 1000 * 1000 + 999)

    def dump(self) -> list[Any]:
        """Every field of the accounts and of the catalogue, and how many holds, entries and keys there are."""
        shared = self.keys["anna"]
        hashes = (*(keys.account for keys in self.keys.values()), shared.catalogue)
        counts = ((b"HLEN", shared.holds), (b"XLEN", shared.journal), (b"DBSIZE",))
        replies = self.run(self.redis_client.pipeline([*((b"HGETALL", key) for key in hashes), *counts]))
        # Redis gives fields in an order of its own, which changes by itself.
        return [dict(zip(reply[::2], reply[1::2], strict=True)) for reply in replies[:3]] + replies[3:]

    def close(self) -> None:
        self.run(self.redis_client.close())
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


class Calls(RuleBasedStateMachine):
    """Two accounts of one partition."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.bench.begin_anew()
        self.model = Model({name: Account() for name in NAMES})
        self.limits = dict.fromkeys(NAMES, Limits((5, 9, None), None))
        self.clock_ms = START_MS
        self.bench.set_clock(self.clock_ms)
        self.committed: dict[str, list[int]] = {name: [] for name in NAMES}
        self.requests = 0
        self.settled: list[str] = []
        self.key = dict.fromkeys(NAMES, 0)
        self.caps: dict[str, list[int | None]] = {name: [100, 50, 50] for name in NAMES}
        self.since = dict.fromkeys(NAMES, (START_MS - 60_000) * 1000)
        self.rotated: set[str] = set()

    @initialize(balances=st.tuples(st.integers(0, 2000), st.none() | st.integers(0, 300)))
    def warm(self, balances: tuple[int, int | None]) -> None:
        for name, balance in zip(NAMES, balances, strict=True):
            if balance is not None:
                self.commit(name, [balance])
                self.load(name, 0)

    # What PostgreSQL commits, and what Redis hears of it: in order, twice, with gaps, before and after a load.

    @rule(name=NAME, amounts=st.lists(st.integers(-30, 60), min_size=1, max_size=4))
    def commit(self, name: str, amounts: list[int]) -> None:
        self.committed[name] += amounts

    @rule(name=NAME, missing=st.sampled_from((0, 0, 0, 1, 2)))
    def load(self, name: str, missing: int) -> None:
        """Loads what PostgreSQL had, `missing` changes ago."""
        seen = self.committed[name][: max(0, len(self.committed[name]) - missing)]
        known = {"credit_seq": len(seen), "balance": sum(seen)}
        version, catalogue = max(1, len(self.committed[name]) - missing), 1
        expected = self.model.load(name, clock_ms=self.clock_ms, version=version, catalogue=catalogue, **known)
        given = self.bench.meter.load(
            self.bench.keys[name],
            account_version=version,
            credit_seq=known["credit_seq"],
            catalogue_version=catalogue,
            **self._counted(name, known["balance"]),  # type: ignore[arg-type] # by name
        )
        assert self.bench.run(given) is expected

    def _counted(self, name: str, balance: int) -> dict[str, object]:
        """Leaves the journal to the script, but where there are corrections, which only PostgreSQL can judge."""
        corrected = {request_id for request_id, kind, _ in self.model.journal if kind == "corrected"}
        if not any(self.model.calls[request_id][0] == name for request_id in corrected):
            return {"balance": balance}
        ((newest, _),) = self.bench.call("XREVRANGE", self.bench.keys[name].journal, "+", "-", "COUNT", 1)
        late = [
            moment + CLOCK_SKEW_MS
            for request_id, (whose, moment) in self.model.calls.items()
            if whose == name and request_id not in self.model.holds
        ]
        calls = [" ".join(f"{moment // step_ms(window)} 1" for moment in late) for window in WINDOWS]
        return {"balance": balance - self.model.pending_charges(name), "counted_upto": newest.decode(), "calls": calls}

    @rule(name=NAME, load_again=st.sampled_from((True, True, True, False)))
    @precondition(lambda self: self.requests % 3 == 1)  # rarely: what was there before is lost to the test too
    def evict(self, name: str, load_again: bool) -> None:
        self.bench.call("DEL", self.bench.keys[name].account)
        self.model.evict(name)
        if load_again:
            self.load(name, 0)

    @rule(name=NAME, amount=st.integers(-30, 60))
    @precondition(lambda self: self.requests % 3 == 2)  # rarely, as above
    def load_what_was_read_before_a_change(self, name: str, amount: int) -> None:
        self.evict(name, False)
        self.commit(name, [amount])
        self._tell(name, len(self.committed[name]))
        self.load(name, 1)
        self.load(name, 0)

    @rule(name=NAME, data=st.data())
    def tell(self, name: str, data: st.DataObject) -> None:
        if self.committed[name]:
            following = min(self.model.accounts[name].credit_seq + 1, len(self.committed[name]))
            self._tell(name, data.draw(st.one_of(st.just(following), st.integers(1, len(self.committed[name])))))

    def _tell(self, name: str, seq: int) -> None:
        amount, was_loaded = self.committed[name][seq - 1], self.model.accounts[name].is_loaded
        expected = self.model.grant(name, credit_seq=seq, amount=amount)
        given = self.bench.publication().apply_credits(IDS[name], credit_seq=seq, amount=amount)
        assert self.bench.run(given) is expected
        if was_loaded and not self.model.accounts[name].is_loaded:
            self.load(name, 0)

    @rule(name=NAME, version=VERSION)
    def bump_account(self, name: str, version: int) -> None:
        self.model.bump(name, version)
        self.bench.run(self.bench.publication().raise_account_version(IDS[name], version))

    @rule(version=VERSION)
    def bump_catalogue(self, version: int) -> None:
        self.model.catalogue = max(self.model.catalogue or version, version)
        self.bench.run(self.bench.publication().raise_catalogue_version(version))

    # What clients do, under plans that change.

    @rule(name=NAME, limits=LIMITS)
    def change_plan(self, name: str, limits: Limits) -> None:
        self.limits[name] = limits

    @rule(name=NAME, overage=st.integers(0, 40))
    def allow_overage(self, name: str, overage: int) -> None:
        self.limits[name] = self.limits[name]._replace(overage=overage)
        self._ask_for_all_there_is(name, beyond=1)
        self._ask_for_all_there_is(name, beyond=0)

    def _ask_for_all_there_is(self, name: str, *, beyond: int) -> None:
        left = self.model.accounts[name].balance + self.limits[name].overage + beyond
        if left > 0:
            self._admit(name, amount=left, required=left, drift=(0, 0))

    @rule(name=NAME, number=st.integers(0, 2), by=st.integers(0, 4))
    def shrink_plan(self, name: str, number: int, by: int) -> None:
        """To below what was used, so that more than one call must leave before the next."""
        now_ms = self.model.now_ms(name, self.clock_ms)
        used = len(self.model.accounts[name].live(WINDOWS[number], now_ms))
        per_window: list[int | None] = [None, None, None]
        per_window[number] = max(1, used - by)
        self.limits[name] = Limits(tuple(per_window), None)
        self.admit(name, 0, True, (0, 0), True)

    @rule(name=NAME, key=KEY)
    def call_by_another_key(self, name: str, key: int) -> None:
        if key == 2:
            self.rotated.add(name)
        self.key[name] = key

    @rule(name=NAME, key=KEY, cap=CAPS)
    def cap_a_key(self, name: str, key: int, cap: int | None) -> None:
        self.caps[name][key] = cap

    @rule(name=NAME, starts=PERIOD_MS)
    def begin_a_period(self, name: str, starts: int) -> None:
        self.since[name] = (self.clock_ms + starts) * 1000

    @rule(name=NAME, starts=PERIOD_MS, cap=st.integers(20, 60), evicted=st.booleans(), charges=CHARGES)
    def calls_run_as_a_period_begins(
        self, name: str, starts: int, cap: int, evicted: bool, charges: tuple[int, int, int]
    ) -> None:
        """Some are of the old one, some of the new; one ends as it should, one was swept, one comes late."""
        self.caps[name][self.key[name]] = cap
        running = [self.requests for _ in charges if self._passes(name)]
        self.begin_a_period(name, starts)
        self._passes(name)
        if evicted:
            self.evict(name, True)
            self._passes(name)
        for number, charge in zip(running, charges, strict=False):
            if charge % 2:
                self._sweep(name, f"r{number}")
            if charge % 4 != 1:
                self._settle(name, f"r{number}", charge=charge)

    def _passes(self, name: str) -> bool:
        return self._admit(name, amount=3, required=3, drift=(0, 0)).verdict is Verdict.ADMITTED

    @rule(name=NAME, at_least=st.integers(0, 1))
    def ask_for_exactly_what_the_cap_leaves(self, name: str, at_least: int) -> None:
        cap = self._cap(name)
        if cap is not None:
            left = max(0, cap.credits - self.model.spent(cap.since, self._spenders(name))) + at_least
            self._admit(name, amount=left, required=left, drift=(0, 0))

    @rule(step=CLOCK_STEP_MS)
    def move_clock(self, step: int) -> None:
        self._set_clock(max(START_MS - 10**9, self.clock_ms + step))

    @rule(
        name=NAME,
        amount=st.integers(0, 20),
        is_free=st.booleans(),
        drift=st.tuples(VERSION_DRIFT, VERSION_DRIFT),
        comes_back=st.booleans(),
    )
    def admit(self, name: str, amount: int, is_free: bool, drift: tuple[int, int], comes_back: bool) -> None:
        required = 0 if is_free else max(amount, 1)
        admission = self._admit(name, amount=amount, required=required, drift=drift)
        can_come_back = 0 not in (self.limits[name].per_window)
        if admission.verdict is Verdict.RATE_LIMITED and comes_back and can_come_back:
            self._set_clock(self.model.now_ms(name, self.clock_ms) + admission.retry_after_seconds * 1000)
            again = self._admit(name, amount=amount, required=required, drift=drift)
            if again.verdict is Verdict.RATE_LIMITED:
                told = (admission.retry_after_seconds, again.retry_after_seconds, again.violated)
                assert told == (60, 1, (Window.MINUTE,)), "the minute's last step has at most a second to go"
                self._set_clock(self.model.now_ms(name, self.clock_ms) + 1000)
                again = self._admit(name, amount=amount, required=required, drift=drift)
            assert again.verdict is not Verdict.RATE_LIMITED

    @rule(name=NAME, calls=st.lists(st.tuples(GAP_MS, st.integers(0, 3), st.booleans()), min_size=8, max_size=30))
    def traffic(self, name: str, calls: list[tuple[int, int, bool]]) -> None:
        """Calls one after another, each a while after the one before; some settle before the next."""
        for gap, amount, settles in calls:
            self._set_clock(self.clock_ms + gap)
            admission = self._admit(name, amount=amount, required=amount, drift=(0, 0))
            if settles and admission.verdict is Verdict.ADMITTED:
                self._settle(name, f"r{self.requests}", charge=amount)

    @rule(name=NAME, at_least=st.integers(0, 1))
    def ask_for_exactly_what_is_left(self, name: str, at_least: int) -> None:
        left = max(0, self.model.accounts[name].balance) + at_least
        self._admit(name, amount=left, required=left, drift=(0, 0))

    @rule(data=st.data(), charge=st.integers(0, 40))
    @precondition(lambda self: self.model.holds)
    def settle(self, data: st.DataObject, charge: int) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.model.holds)))
        self._settle(self.model.holds[request_id][0], request_id, charge=charge)
        self.settled.append(request_id)

    @rule(data=st.data())
    @precondition(lambda self: self.model.holds)
    def sweep(self, data: st.DataObject) -> None:
        """The gateway is thought to be dead."""
        request_id = data.draw(st.sampled_from(sorted(self.model.holds)))
        name = self.model.holds[request_id][0]
        assert self._sweep(name, request_id)

    @rule(data=st.data(), charge=st.integers(0, 40))
    @precondition(lambda self: self.model.swept)
    def settle_late(self, data: st.DataObject, charge: int) -> None:
        """It was only frozen."""
        request_id = data.draw(st.sampled_from(sorted(self.model.swept)))
        self._settle(self.model.swept[request_id], request_id, charge=charge)
        self.settled.append(request_id)
        event("LATE")

    @rule(data=st.data(), name=NAME)
    def sweep_what_is_not_open(self, data: st.DataObject, name: str) -> None:
        request_id = data.draw(st.sampled_from([*self.settled, *sorted(self.model.swept), "unknown"]))
        before = self.bench.dump()
        assert not self._sweep(name, request_id)
        assert self.bench.dump() == before

    @rule(data=st.data(), name=NAME)
    def settle_what_is_not_open(self, data: st.DataObject, name: str) -> None:
        request_id = data.draw(st.sampled_from([*self.settled, "unknown"]))
        before = self.bench.dump()
        self._settle(name, request_id, charge=7)
        assert self.bench.dump() == before

    @invariant()
    def accounts_are_as_the_model_has_them(self) -> None:
        for name, account in self.model.accounts.items():
            state = self.bench.call("HGET", self.bench.keys[name].account, "s")
            assert (state is not None) is account.is_loaded
            if state is not None:
                assert AccountState.unpack(state)[:3] == (account.clock_ms, account.balance, account.in_flight)

    @invariant()
    def holds_are_as_the_model_has_them(self) -> None:
        fields = self.bench.call("HGETALL", self.bench.keys["anna"].holds)
        held = {fields[n].decode(): int(fields[n + 1].split(b"\t")[0]) for n in range(0, len(fields), 2)}
        assert held == {request_id: amount for request_id, (_, amount) in self.model.holds.items()}

    @invariant()
    def what_keys_have_spent_is_what_their_calls_were_charged_or_hold(self) -> None:
        for name, account in self.model.accounts.items():
            for budget, (since, keys) in account.counted.items():
                counted = self.bench.call("HGET", self.bench.keys[name].account, f"b:{budget}")
                assert KeyBudget.unpack(counted) == (since, self.model.spent(since, keys), len(keys))

    def teardown(self) -> None:
        assert self._read_journal() == self.model.journal

    def _read_journal(self) -> list[tuple[str, str, int | None]]:
        """Request ids, whether the entry settles, sweeps or corrects, and the balance that this left."""
        entries = self.bench.call("XRANGE", self.bench.keys["anna"].journal, "-", "+")
        found = []
        for _, (field, record, *rest) in entries:
            columns = parse_line(copy_line(field, record).decode())
            assert columns["path"] == "/path"
            kind = "corrected" if is_correction(rest) else columns["outcome"]
            left = columns[BALANCE_AFTER]
            found.append((columns["request_id"] or "", kind or "", None if left is None else int(left)))
        return found

    def _admit(self, name: str, *, amount: int, required: int, drift: tuple[int, int]) -> Admission:
        self.requests += 1
        request_id, account = f"r{self.requests}", self.model.accounts[name]
        version = max(0, (account.version or 1) + drift[0])
        catalogue = max(0, (self.model.catalogue or 1) + drift[1])
        cap, key = self._cap(name), KEYS[name][self.key[name]]
        dated_ms = self.clock_ms if cap is None else max(self.clock_ms, cap.since // 1000)
        terms = {"amount": amount, "required": required, "limits": self.limits[name], "cap": cap}
        before = self.bench.dump()
        foreseen = self.bench.run(self.bench.meter.account_snapshot(self.bench.keys[name], self.limits[name], cap))
        assert self.bench.dump() == before, "looking changed something"
        given = self.bench.run(
            self.bench.meter.admit(
                self.bench.keys[name],
                request_id=request_id,
                account_version=version,
                catalogue_version=catalogue,
                prefix=_prefix(name, request_id, dated_ms, key=key),
                **terms,  # type: ignore[arg-type] # by name
            )
        )
        expected = self.model.admit(
            name,
            request_id,
            clock_ms=self.clock_ms,
            dated_ms=dated_ms,
            version=version,
            catalogue=catalogue,
            key=key,
            keys=self._spenders(name),
            **terms,  # type: ignore[arg-type] # by name
        )
        assert given._replace(epoch="") == expected
        event(given.verdict.name)
        was_set_back = account.is_loaded and not self.model.accounts[name].is_loaded
        if given.verdict is not Verdict.ADMITTED and not was_set_back:
            assert self.bench.dump() == before, "a refusal changed something"
        if given.verdict is Verdict.BUDGET_NOT_LOADED:
            assert cap is not None
            self._count(name, cap)
            return self._admit(name, amount=amount, required=required, drift=drift)
        self._check_real_windows(name, given)
        if given.verdict not in (Verdict.NOT_LOADED, Verdict.STALE):
            self._check_foreseen(name, foreseen, given, amount=amount, required=required)
        return given

    def _check_foreseen(
        self, name: str, foreseen: AccountSnapshot | None, given: Admission, *, amount: int, required: int
    ) -> None:
        """What peeking said before is what the admission found."""
        assert foreseen is not None
        counted, cap = 1 if given.verdict is Verdict.ADMITTED else 0, self._cap(name)
        assert foreseen.balance - amount * counted == given.balance
        assert foreseen.in_flight + counted == self.model.accounts[name].in_flight
        assert tuple(used + counted for used in foreseen.used) == given.used
        if cap is not None:
            assert (foreseen.spent or 0) + amount * counted == self.model.spent(cap.since, self._spenders(name))
        assert foreseen[3:6] == (given.reset_seconds, given.retry_after_seconds, given.violated)
        plan = Plan("p", "P", 1, {})
        code: str | None = None
        available: object = 0
        try:
            check_snapshot(foreseen, self.limits[name], plan, required=required, cap=cap)
        except Refused as refused:
            code = refused.code.name
            available = refused.extras.get("available", 0)
        if given.verdict is Verdict.KEY_BUDGET_EXHAUSTED:
            assert given.budget_remaining == available
        told = "INSUFFICIENT_CREDITS" if given.verdict is Verdict.KEY_BUDGET_EXHAUSTED else given.verdict.name
        assert code == (None if counted else told)

    def _cap(self, name: str) -> Cap | None:
        """Of the key that calls now."""
        credits = self.caps[name][self.key[name]]
        keys = self._spenders(name)
        return None if credits is None else Cap(credits, keys[0], self.since[name], len(keys))

    def _spenders(self, name: str) -> tuple[UUID, ...]:
        """All keys that spend from the budget of the key that calls now."""
        own, first, second = KEYS[name]
        if self.key[name] == 0:
            return (own,)
        return (first, second) if name in self.rotated else (first,)

    def _count(self, name: str, cap: Cap) -> None:
        """As a gateway does: leaves the journal to the script, but where there are corrections."""
        keys, upto, known = self._spenders(name), "0-0", 0
        corrected = {request_id for request_id, kind, _ in self.model.journal if kind == "corrected"}
        if any(self.model.keys[request_id] in keys for request_id in corrected) or self.requests % 2:
            entries = self.bench.call("XREVRANGE", self.bench.keys[name].journal, "+", "-", "COUNT", 1)
            upto = entries[0][0].decode() if entries else upto
            held = sum(self.model.holds[each][1] for each in self._open(keys, cap.since))
            known = self.model.spent(cap.since, keys) - held
        given = self.bench.meter.load_key_budget(
            self.bench.keys[name],
            cap,
            spent=known,
            counted_upto=upto,
            key_ids=self._spenders(name),
        )
        assert self.bench.run(given) is LoadResult.LOADED
        self.model.accounts[name].counted[cap.budget_id] = (cap.since, keys)

    def _open(self, keys: tuple[UUID, ...], since: int) -> list[str]:
        calls = self.model.calls
        return [each for each in self.model.holds if self.model.keys[each] in keys and calls[each][1] * 1000 >= since]

    def _settle(self, name: str, request_id: str, *, charge: int) -> None:
        expected = self.model.settle(request_id, charge=charge)
        settlement = Settlement(self.bench.keys[name], request_id, charge, _suffix("settled", charge))
        given = self.bench.meter.settle(settlement)
        assert self.bench.run(given) == expected

    def _sweep(self, name: str, request_id: str) -> bool:
        expected = self.model.sweep(request_id)
        given = self.bench.run(self.bench.meter.abandon(self.bench.keys[name], request_id, suffix=_suffix("swept", 0)))
        assert given is expected
        return given

    def _check_real_windows(self, name: str, admission: Admission) -> None:
        """By plain moments: a window that ends with an admission holds no more than its limit, whatever came before.

        Every window of a constant limit is bounded by the one that ends with its last admission.
        """
        if admission.verdict not in (Verdict.ADMITTED, Verdict.RATE_LIMITED):
            return
        account = self.model.accounts[name]
        now_ms = self.model.now_ms(name, self.clock_ms)
        for window, limit in zip(WINDOWS, self.limits[name].per_window, strict=True):
            width_ms = WINDOW_SECONDS[window] * 1000
            if limit is not None and admission.verdict is Verdict.ADMITTED:
                assert sum(now_ms - width_ms < moment for moment in account.admitted_ms) <= limit
            if window in admission.violated:
                wider_ms = width_ms + step_ms(window)
                assert limit is not None
                assert sum(now_ms - wider_ms < moment for moment in account.admitted_ms) >= limit, "refused too early"

    def _set_clock(self, clock_ms: int) -> None:
        self.clock_ms = clock_ms
        self.bench.set_clock(clock_ms)


def _prefix(name: str, request_id: str, clock_ms: int, *, key: UUID) -> str:
    known = {"request_id": request_id, "created_at": clock_ms * 1000, "user_id": IDS[name], "path": "/path"}
    known["api_key_id"] = key
    return prefix_of(known)


def _suffix(outcome: str, charge: int) -> str:
    known = {"outcome": outcome, "credits_charged": charge}
    return suffix_of(known)


@pytest.fixture
def bench(server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    clocked = {"ADMIT": ADMIT, "ACCOUNT_SNAPSHOT": ACCOUNT_SNAPSHOT, "LOAD_ACCOUNT": LOAD_ACCOUNT}
    for name, script in clocked.items():
        assert script.source.count(TIME) == 1
        monkeypatch.setattr(meter_module, name, Script(script.source.replace(TIME, TEST_TIME)))
    bench = Bench(server.url.removesuffix("/0") + "/1")
    yield bench
    bench.close()


def test_scripts_do_what_the_model_does(bench: Bench) -> None:
    machine = type("CallsOnBench", (Calls,), {"bench": bench})
    run_state_machine_as_test(machine, settings=SETTINGS)
