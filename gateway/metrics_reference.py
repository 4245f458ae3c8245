"""docs/reference/metrics.md: every Prometheus series with its type, labels and help.

`python -m gateway.metrics_reference` prints it; `make reference` writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from gateway import metrics

_HEAD = """\
# Metrics

`make reference` writes this page. The health listener of each role serves the series of its processes together at
`/metrics`, in the Prometheus text format, and so does the admin listener; scaled out, scrape every role.
Labels hold names of the configuration; what is not in it counts as `other`. Gauges of a process end with it.

| series | type | labels | help |
|---|---|---|---|
"""
_TYPES: dict[type[MetricWrapperBase], str] = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}


def markdown() -> str:
    return _HEAD + "".join(f"{_row(series)}\n" for series in _series())


def _series() -> Iterator[MetricWrapperBase]:
    """In the order of the module."""
    return (value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase))


def _row(series: MetricWrapperBase) -> str:
    [family] = series.describe()
    name = f"{family.name}_total" if isinstance(series, Counter) else family.name
    labels = ", ".join(f"`{label}`" for label in series._labelnames)  # noqa: SLF001 - no public name for them
    return f"| `{name}` | {_TYPES[type(series)]} | {labels} | {family.documentation} |"


if __name__ == "__main__":
    sys.stdout.write(markdown())
