"""Ejection and return as a transcript of times and results."""

from __future__ import annotations

from gateway.upstream.health import (
    FAILED_PROBES_TO_EJECT,
    FAILURES_TO_EJECT,
    FAILURES_TO_PAUSE_ACCOUNT,
    MAX_ACTIVE,
    TRIAL_SECONDS,
    Health,
)


def ejected_at(now: float) -> Health:
    health = Health()
    for _ in range(FAILURES_TO_EJECT):
        health.record_failure(now, trial=health.start_attempt())
    return health


def test_health_ejects_after_consecutive_failures() -> None:
    health = Health()
    for _ in range(20):
        for _ in range(FAILURES_TO_EJECT - 1):
            health.record_failure(0.0, trial=False)
        assert health.accepts_requests(0.0)
        health.record_success()
    assert not ejected_at(0.0).accepts_requests(0.99)


def test_health_allows_one_trial_at_a_time_after_the_pause() -> None:
    health = ejected_at(0.0)

    assert health.accepts_requests(1.0)
    assert health.start_attempt()
    assert not health.accepts_requests(1.0)
    health.record_success()
    assert health.accepts_requests(1.0)
    assert not health.start_attempt()


def test_health_doubles_the_pause_until_a_success() -> None:
    health, now, pauses = ejected_at(0.0), 0.0, []
    for _ in range(9):
        pause = next(seconds for seconds in range(1, 100) if health.accepts_requests(now + seconds))
        pauses.append(pause)
        now += pause
        health.record_failure(now, trial=health.start_attempt())
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]

    health.record_success()
    for _ in range(FAILURES_TO_EJECT):
        health.record_failure(now, trial=health.start_attempt())
    assert health.accepts_requests(now + 1)


def test_health_ignores_requests_from_before_the_ejection() -> None:
    health = ejected_at(0.0)
    for _ in range(100):
        health.record_failure(0.5, trial=False)
    assert health.accepts_requests(1.0)


def test_health_allows_another_trial_after_an_abandoned_one() -> None:
    health = ejected_at(0.0)
    health.record_unknown(trial=health.start_attempt())
    assert health.accepts_requests(1.0)


def test_health_reports_an_ejection_once() -> None:
    health = Health()
    ejecting = [health.record_failure(now, trial=health.start_attempt()) for now in range(FAILURES_TO_EJECT + 3)]
    assert ejecting == [False] * (FAILURES_TO_EJECT - 1) + [True] + [False] * 3


def test_health_readmits_after_failed_probes_only_by_a_probe() -> None:
    health = Health()
    ejecting = []
    for _ in range(FAILED_PROBES_TO_EJECT + 1):
        health.record_success()
        ejecting.append(health.record_probe(is_healthy=False))
    assert ejecting == [False] * (FAILED_PROBES_TO_EJECT - 1) + [True, False]
    health.record_success()
    assert not health.accepts_requests(1e9)
    assert health.is_ejected
    assert not health.record_probe(is_healthy=True)
    assert health.accepts_requests(0.0)


def test_health_readmits_by_a_probe_after_failed_requests() -> None:
    health = ejected_at(0.0)
    health.record_probe(is_healthy=True)
    assert health.accepts_requests(0.0)


def fail(health: Health, now: float, account: str | None, *, times: int = 1) -> None:
    for _ in range(times):
        if health.accepts_requests(now, account):
            health.record_failure(now, trial=health.start_attempt(now), account=account)


def test_one_account_that_fails_beside_another_ejects_nothing() -> None:
    health = Health()
    health.record_success("victim", 0.0)
    for now in range(1, 100):
        fail(health, float(now), "attacker", times=20)
        assert health.accepts_requests(float(now), "victim")
        if now % 10 == 0:
            health.record_success("victim", float(now))


def test_account_that_fails_alone_is_paused_alone() -> None:
    health = Health()
    fail(health, 0.0, "attacker", times=FAILURES_TO_EJECT)
    assert not health.accepts_requests(0.5, "attacker")
    assert health.accepts_requests(0.5, "victim")

    assert health.start_attempt(0.5)
    health.record_success("victim", 0.5)
    assert health.accepts_requests(0.5, "attacker")


def test_failures_of_several_accounts_eject() -> None:
    health = Health()
    for account in ("a", "b", "a", "b", "c"):
        fail(health, 0.0, account)
    assert not health.accepts_requests(0.5, "d")


def test_failures_of_a_minority_eject_nothing() -> None:
    health = Health()
    for number in range(5):
        health.record_success(f"victim {number}", 0.0)
    fail(health, 1.0, "a", times=10)
    fail(health, 1.0, "b", times=10)
    assert health.accepts_requests(1.0, "victim 0")


def test_failures_to_connect_eject_whoever_asked() -> None:
    health = Health()
    health.record_success("victim", 0.0)
    fail(health, 0.0, None, times=FAILURES_TO_EJECT)
    assert not health.accepts_requests(0.5, "victim")


def test_slow_trial_keeps_others_out_for_a_moment_only() -> None:
    health = ejected_at(0.0)
    assert health.accepts_requests(1.0)
    health.start_attempt(1.0)
    assert not health.accepts_requests(1.0 + TRIAL_SECONDS - 0.1)
    assert health.accepts_requests(1.0 + TRIAL_SECONDS)


def test_health_remembers_a_bounded_number_of_accounts() -> None:
    health = Health()
    for number in range(10_000):
        health.record_success(number, 0.0)
        health.record_failure(0.0, trial=False, account=number)
    assert len(health._active) <= MAX_ACTIVE
    assert len(health._failing) <= MAX_ACTIVE


def failing(health: Health, account: str, *, times: int, now: float = 0.0) -> int:
    """How many of the attempts the target took."""
    taken = 0
    for _ in range(times):
        if health.accepts_requests(now, account):
            taken += 1
            health.record_failure(now, trial=health.start_attempt(now, account), account=account)
    return taken


def test_health_pauses_an_account_that_fails_in_a_row_beside_others() -> None:
    health = Health()
    health.record_success("victim", 0.0)
    assert failing(health, "attacker", times=100) == FAILURES_TO_PAUSE_ACCOUNT
    assert health.accepts_requests(0.5, "victim")
    pauses, now = [], 0.0
    for _ in range(6):
        pause = next(seconds for seconds in range(1, 100) if health.accepts_requests(now + seconds, "attacker"))
        pauses.append(pause)
        now += pause
        health.record_success("victim", now)
        assert failing(health, "attacker", times=50, now=now) == 1  # a trial at a time
    assert pauses == [1, 2, 4, 8, 10, 10]
    health.start_attempt(now + 10, "attacker")
    health.record_success("attacker", now + 10)
    assert failing(health, "attacker", times=5, now=now + 10) == 5


def test_health_pauses_no_account_whose_calls_succeed_in_between() -> None:
    health = Health()
    for _ in range(50):
        health.record_success("victim", 0.0)
        assert failing(health, "customer", times=FAILURES_TO_PAUSE_ACCOUNT - 1) == FAILURES_TO_PAUSE_ACCOUNT - 1
        health.record_success("customer", 0.0)


def test_health_does_not_lengthen_the_pause_of_an_account_by_calls_from_before_it() -> None:
    health = Health()
    health.record_success("victim", 0.0)
    for _ in range(10 * FAILURES_TO_PAUSE_ACCOUNT):
        health.record_failure(0.0, trial=False, account="attacker")
    assert health.accepts_requests(1.0, "attacker")


def test_health_remembers_a_bounded_number_of_failing_accounts() -> None:
    health = Health()
    health.record_success("victim", 0.0)
    for number in range(3 * MAX_ACTIVE):
        health.record_failure(0.0, trial=False, account=number)
    assert len(health._streaks) <= MAX_ACTIVE
