"""The series of all processes, read back from the Prometheus text that the health listener serves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from gateway.api.admin.dependencies import MetricsText

Labels = Mapping[str, str]


class Series:
    """Values by name and labels. Empty where the series cannot be read at the moment."""

    def __init__(self, exposition: str) -> None:
        self._samples: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
        for family in text_string_to_metric_families(exposition):
            for sample in family.samples:
                self._samples[sample.name].append((sample.labels, sample.value))

    def value(self, name: str) -> float | None:
        """The sum over all labels; None for a series that nobody writes."""
        found = self._samples.get(name)
        return None if found is None else sum(value for _, value in found)

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums by one label, in the order of its values."""
        sums: dict[str, float] = defaultdict(float)
        for labels, value in self._samples.get(name, ()):
            sums[labels.get(label, "")] += value
        return dict(sorted(sums.items()))

    def matching(self, name: str, **wanted: str) -> list[tuple[Labels, float]]:
        """The samples with these labels."""
        return [
            (labels, value)
            for labels, value in self._samples.get(name, ())
            if all(labels.get(label) == needed for label, needed in wanted.items())
        ]


async def read_series(metrics_text: MetricsText) -> Series:
    """The series now."""
    return Series((await metrics_text()).decode())
