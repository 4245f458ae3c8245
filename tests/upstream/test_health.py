"""Ejection and return as a transcript of times and results."""

from __future__ import annotations

from gateway.upstream.health import FAILED_PROBES_TO_EJECT, FAILURES_TO_EJECT, Health


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
