"""What the variants of an experiment brought, and which of it differs from the control by more than chance.

Each variant is compared with the control by sign-ups (their share against the weights: a sample ratio test), by paid
conversions (a two-proportion z-test), and by usage and revenue an account (Welch's t-test). Intervals are of 95 % each.
All p-values of a report are adjusted together by Holm, so that of a hundred reports on variants that are alike one
finds a difference. That holds for a report that is read once, at an end that was fixed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum

from policies.experiments import statistics
from policies.experiments.statistics import Difference, Interval, Sample, Share

# How often a report may find a difference between variants that are alike. At 5 %, as usual for a single comparison,
# more than 5 of 100 such reports would in every third hundred; at 1 % hardly ever, and it forgives some early looks.
SIGNIFICANCE = 0.01


class Metric(StrEnum):
    SIGN_UPS = "sign_ups"
    CONVERSION = "conversion"
    USAGE = "usage"
    REVENUE = "revenue"


@dataclass(frozen=True, slots=True)
class Sums:
    """Of a value over accounts, those at 0 included."""

    total: Decimal = Decimal(0)
    of_squares: Decimal = Decimal(0)

    def sample(self, size: int) -> Sample:
        if size < 2:
            return Sample(size, float(self.total) if size else 0.0, 0.0)
        mean = self.total / size
        variance = max(Decimal(0), (self.of_squares - self.total * mean) / (size - 1))
        return Sample(size, float(mean), float(variance))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of the accounts of a variant: how many there are, signed up meanwhile and paid; credits used, and money by
    currency."""

    accounts: int = 0
    sign_ups: int = 0
    paid: int = 0
    credits_used: Sums = field(default_factory=Sums)
    revenue: Mapping[str, Sums] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure an account, and where the true one lies."""

    metric: Metric
    currency: str | None
    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant less the control. `adjusted_p_value` None: there is too little to test."""

    variant: str
    metric: Metric
    currency: str | None
    difference: Difference
    adjusted_p_value: float | None = None

    @property
    def is_significant(self) -> bool:
        return self.adjusted_p_value is not None and self.adjusted_p_value < SIGNIFICANCE


def estimate(outcome: Outcome, *, of_all: int) -> tuple[Estimate, ...]:
    """The figures of a variant; `of_all`: the sign-ups of all variants."""
    shares = {Metric.SIGN_UPS: Share(outcome.sign_ups, of_all), Metric.CONVERSION: _conversion(outcome)}
    means: list[tuple[Metric, str | None, Sums]] = [(Metric.USAGE, None, outcome.credits_used)]
    means += [(Metric.REVENUE, currency, sums) for currency, sums in sorted(outcome.revenue.items())]
    samples = [(metric, currency, sums.sample(outcome.accounts)) for metric, currency, sums in means]
    return (
        *(Estimate(metric, None, share.value, statistics.wilson(share)) for metric, share in shares.items()),
        *(Estimate(metric, name, each.mean, statistics.mean_interval(each)) for metric, name, each in samples),
    )


def compare(outcomes: Mapping[str, Outcome], weights: Mapping[str, int]) -> tuple[Comparison, ...]:
    """Each variant but the first, the control, with it, in the order of `weights`."""
    names = list(weights)
    control = outcomes[names[0]]
    compared = [
        comparison
        for name in names[1:]
        for comparison in _compare(
            name, outcomes[name], control, share=weights[name] / (weights[name] + weights[names[0]])
        )
    ]
    return _adjusted(compared)


def _compare(name: str, outcome: Outcome, control: Outcome, *, share: float) -> Iterator[Comparison]:
    sign_ups = Share(outcome.sign_ups, outcome.sign_ups + control.sign_ups)
    yield Comparison(name, Metric.SIGN_UPS, None, statistics.compare_with_expected(sign_ups, share))
    conversion = statistics.compare_shares(_conversion(control), _conversion(outcome))
    yield Comparison(name, Metric.CONVERSION, None, conversion)
    yield Comparison(name, Metric.USAGE, None, _compare_means(control, outcome, lambda each: each.credits_used))
    for currency in sorted(control.revenue.keys() | outcome.revenue.keys()):

        def money(each: Outcome, currency: str = currency) -> Sums:
            return each.revenue.get(currency, Sums())

        yield Comparison(name, Metric.REVENUE, currency, _compare_means(control, outcome, money))


def _conversion(outcome: Outcome) -> Share:
    return Share(outcome.paid, outcome.accounts)


def _compare_means(control: Outcome, outcome: Outcome, sums: Callable[[Outcome], Sums]) -> Difference:
    samples = (sums(each).sample(each.accounts) for each in (control, outcome))
    return statistics.compare_means(*samples)


def _adjusted(compared: Sequence[Comparison]) -> tuple[Comparison, ...]:
    p_values = [each.difference.p_value for each in compared if each.difference.p_value is not None]
    adjusted = iter(statistics.holm(p_values))
    return tuple(
        each if each.difference.p_value is None else replace(each, adjusted_p_value=next(adjusted)) for each in compared
    )
