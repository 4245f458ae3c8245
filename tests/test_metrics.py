"""What the hot path counts shows in the exposition, exactly, after a flush."""

from __future__ import annotations

from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from gateway import metrics
from gateway.metrics import BufferedCounter, BufferedDifference, BufferedHistogram

BOUNDS = (0.1, 1.0, 5.0)


@pytest.fixture
def name() -> str:
    return f"test_{uuid4().hex}"


def value(sample: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(sample, labels)


def test_a_buffered_counter_shows_its_sum_once(name: str) -> None:
    counter = BufferedCounter(Counter(name, "of a test"))
    counter.add(1)
    counter.add(4)
    before = value(f"{name}_total")
    counter.flush()
    counter.flush()

    assert before == 0
    assert value(f"{name}_total") == 5


def test_a_buffered_difference_shows_where_it_stands(name: str) -> None:
    ahead, behind = (BufferedCounter(Counter(f"{name}_{each}", "of a test")) for each in ("ahead", "behind"))
    difference = BufferedDifference(Gauge(name, "of a test"), ahead=ahead, behind=behind)
    seen = []
    for counter in (ahead, ahead, behind, ahead, behind, behind):
        counter.add(1)
        counter.flush()
        difference.flush()
        seen.append(value(name))

    assert seen == [1, 2, 1, 2, 1, 0]


@settings(deadline=None)
@given(st.lists(st.floats(0, 10)))
def test_a_buffered_histogram_shows_what_observing_one_by_one_would(values: list[float]) -> None:
    registry = CollectorRegistry()
    plain = Histogram("one", "of a test", buckets=BOUNDS, registry=registry)
    buffered = BufferedHistogram(Histogram("other", "of a test", buckets=BOUNDS, registry=registry), BOUNDS)
    for each in values:
        plain.observe(each)
        buffered.observe(each)
    buffered.flush()

    for bound in (*BOUNDS, float("inf")):
        label = {"le": "+Inf" if bound == float("inf") else str(bound)}
        assert registry.get_sample_value("one_bucket", label) == registry.get_sample_value("other_bucket", label)
    assert registry.get_sample_value("one_sum") == pytest.approx(registry.get_sample_value("other_sum"))


async def test_the_flusher_makes_all_of_it_visible(name: str) -> None:
    counter = BufferedCounter(Counter(name, "of a test"))
    counter.add(3)
    await metrics.MetricsFlusher().run_once()

    assert f"{name}_total 3.0" in metrics.exposition().decode()
