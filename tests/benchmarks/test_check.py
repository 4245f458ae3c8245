"""The rule of `make bench-check`: a call costs more once its median is above every round that was recorded."""

import json
from dataclasses import replace

import pytest

from benchmarks.check import RECORDED, Ratio, regression

_RECORDED = Ratio("2026-11-29", "2 cores", 0.80, 0.75, 0.90)


@pytest.mark.parametrize("median", [0.70, 0.80, 0.90])
def test_bench_check_passes_up_to_the_highest_recorded_round(median: float) -> None:
    assert regression(replace(_RECORDED, ratio=median, highest=1.2), _RECORDED) is None


def test_bench_check_fails_above_the_highest_recorded_round_and_says_by_how_much() -> None:
    failure = regression(replace(_RECORDED, ratio=0.92, lowest=0.7), _RECORDED)

    assert failure is not None
    assert "15 % more than recorded" in failure


def test_bench_check_reads_the_ratio_that_is_recorded() -> None:
    recorded = Ratio(**json.loads(RECORDED.read_text()))

    assert 0 < recorded.lowest <= recorded.ratio <= recorded.highest
