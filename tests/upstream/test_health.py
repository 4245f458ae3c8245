"""Ejection and return as a transcript of times and results."""

from __future__ import annotations

from gateway.upstream.health import FAILED_PROBES_TO_EJECT, FAILURES_TO_EJECT, Health


def ejected_at(now: float) -> Health:
    health = Health()
    for _ in range(FAILURES_TO_EJECT):
        health.record_failure(now, trial=health.start_attempt())
    return health


def test_failures_in_a_row_eject_and_single_ones_do_not() -> None:
    health = Health()
    for _ in range(20):
        for _ in range(FAILURES_TO_EJECT - 1):
            health.record_failure(0.0, trial=False)
        assert health.accepts_requests(0.0)
        health.record_success()
    assert not ejected_at(0.0).accepts_requests(0.99)


def test_one_trial_at_a_time_after_the_pause() -> None:
    health = ejected_at(0.0)

    assert health.accepts_requests(1.0)
    assert health.start_attempt()
    assert not health.accepts_requests(1.0)
    health.record_success()
    assert health.accepts_requests(1.0)
    assert not health.start_attempt()


def test_the_pause_doubles_up_to_a_minute_and_starts_over_after_a_success() -> None:
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


def test_stragglers_do_not_lengthen_the_pause() -> None:
    health = ejected_at(0.0)
    for _ in range(100):
        health.record_failure(0.5, trial=False)
    assert health.accepts_requests(1.0)


def test_an_abandoned_trial_frees_the_way_for_the_next() -> None:
    health = ejected_at(0.0)
    health.record_unknown(trial=health.start_attempt())
    assert health.accepts_requests(1.0)


def test_only_the_failure_that_ejects_says_so() -> None:
    health = Health()
    ejecting = [health.record_failure(now, trial=health.start_attempt()) for now in range(FAILURES_TO_EJECT + 3)]
    assert ejecting == [False] * (FAILURES_TO_EJECT - 1) + [True] + [False] * 3


def test_whom_probes_eject_only_a_probe_readmits() -> None:
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


def test_a_well_probe_ends_an_ejection_by_requests_too() -> None:
    health = ejected_at(0.0)
    health.record_probe(is_healthy=True)
    assert health.accepts_requests(0.0)
