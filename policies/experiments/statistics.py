"""What samples say about the whole: intervals of 95 % and two-sided tests, in floats, without other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, exp, lgamma, log, log1p, sqrt

CONFIDENCE = 0.95
# The 0.975 quantile of the normal distribution.
Z = 1.959963984540054
# Cochran's rule: below so many expected cases the normal approximation of a proportion does not hold.
_LEAST_EXPECTED = 5
_ITERATIONS = 500
_PRECISION = 1e-14
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """`p_value` None: there is too little to test."""

    value: float
    interval: Interval | None
    p_value: float | None


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `total` cases."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        return self.hits / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Values by their number, mean and variance (of a sample: over n - 1)."""

    size: int
    mean: float
    variance: float


def wilson(share: Share) -> Interval | None:
    """The score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22:209). None without cases."""
    n, p = share.total, share.value
    if n == 0:
        return None
    scale = 1 + Z * Z / n
    middle = (p + Z * Z / (2 * n)) / scale
    reach = Z * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / scale
    return Interval(max(0.0, middle - reach), min(1.0, middle + reach))


def compare_shares(first: Share, second: Share) -> Difference:
    """`second` less `first`: the two-proportion z-test with a pooled variance, and the interval of Newcombe's method 10
    (1998, Statistics in Medicine 17:873), which is made of two Wilson intervals."""
    value = second.value - first.value
    a, b = wilson(first), wilson(second)
    if a is None or b is None:
        return Difference(value, None, None)
    interval = Interval(
        value - sqrt((second.value - b.low) ** 2 + (a.high - first.value) ** 2),
        value + sqrt((b.high - second.value) ** 2 + (first.value - a.low) ** 2),
    )
    pooled = (first.hits + second.hits) / (first.total + second.total)
    if min(first.total, second.total) * min(pooled, 1 - pooled) < _LEAST_EXPECTED:
        return Difference(value, interval, None)
    deviation = sqrt(pooled * (1 - pooled) * (1 / first.total + 1 / second.total))
    return Difference(value, interval, _two_sided(value / deviation))


def compare_with_expected(share: Share, expected: float) -> Difference:
    """The share less what it should be: the one-proportion z-test, and the Wilson interval."""
    value = share.value - expected
    around = wilson(share)
    if around is None:
        return Difference(value, None, None)
    interval = Interval(around.low - expected, around.high - expected)
    if share.total * min(expected, 1 - expected) < _LEAST_EXPECTED:
        return Difference(value, interval, None)
    return Difference(value, interval, _two_sided(value / sqrt(expected * (1 - expected) / share.total)))


def mean_interval(sample: Sample) -> Interval | None:
    """Student's interval of a mean. None for fewer than two values."""
    if sample.size < 2:
        return None
    reach = t_quantile(sample.size - 1) * sqrt(sample.variance / sample.size)
    return Interval(sample.mean - reach, sample.mean + reach)


def compare_means(first: Sample, second: Sample) -> Difference:
    """`second` less `first`: Welch's t-test (1947, Biometrika 34:28), which assumes no equal variances, with the
    degrees of freedom of Welch and Satterthwaite."""
    value = second.mean - first.mean
    if first.size < 2 or second.size < 2:
        return Difference(value, None, None)
    a, b = first.variance / first.size, second.variance / second.size
    if a + b <= 0:
        return Difference(value, None, None)
    freedom = (a + b) ** 2 / (a * a / (first.size - 1) + b * b / (second.size - 1))
    reach = t_quantile(freedom) * sqrt(a + b)
    return Difference(value, Interval(value - reach, value + reach), t_two_sided(value / sqrt(a + b), freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for being asked together (Holm 1979, Scand. J. Stat. 6:65): if nothing differs, the chance that any is
    below 5 % is 5 % at most, however they depend on each other."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted


def t_two_sided(t: float, freedom: float) -> float:
    """The chance of a Student's t at least as far from 0 (Abramowitz and Stegun 26.7.1 by 26.5.27)."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def t_quantile(freedom: float) -> float:
    """Above which, and below the negative of which, `1 - CONFIDENCE` of Student's t lies; by bisection."""
    low, high = 0.0, 2.0
    while t_two_sided(high, freedom) > 1 - CONFIDENCE:
        high *= 2
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_two_sided(middle, freedom) > 1 - CONFIDENCE else (low, middle)
    return high


def _two_sided(z: float) -> float:
    return erfc(abs(z) / sqrt(2))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), regularized."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    # The fraction converges fast on this side of the mean; the other side is its mirror.
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(a, b, x) / a
    return 1 - front * _beta_fraction(b, a, 1 - x) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of DLMF 8.17.22, by the modified Lentz method."""
    value, c, d = 1.0, 1.0, 0.0
    for step in range(1, _ITERATIONS):
        half = step // 2
        above = -(a + half) * (a + b + half) if step % 2 else half * (b - half)
        term = above * x / ((a + step - 1) * (a + step))
        d = 1 / (1 + term * d or _TINY)
        c = 1 + term / c or _TINY
        value *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return 1 / value
