"""Who gets which variant of an experiment: by a hash, so that everybody keeps theirs and nothing is stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate

# The first 52 bits of the digest: 13 hexadecimal digits, which a double holds exactly too.
POINTS = 1 << 52
MAX_VARIANTS = 6


@dataclass(frozen=True, slots=True)
class Variant:
    """The plans that an account of this variant is offered besides those that no variant has."""

    name: str
    weight: int
    plans: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Arms:
    """The variants of an experiment, the control first, and the salt that shares accounts out among them."""

    salt: str
    variants: tuple[Variant, ...]

    @property
    def control(self) -> Variant:
        return self.variants[0]

    @property
    def plans(self) -> frozenset[str]:
        """Of all variants."""
        return frozenset(plan for variant in self.variants for plan in variant.plans)

    def hidden_from(self, variant: Variant) -> frozenset[str]:
        """The plans that only others are offered."""
        return self.plans - frozenset(variant.plans)


def point(salt: str, account_id: object) -> int:
    """From 0 up to `POINTS`; even over accounts, and for each salt independent of what other salts give."""
    digest = sha256(f"{salt}:{account_id}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 12


def bounds(variants: Sequence[Variant]) -> tuple[int, ...]:
    """Where each variant but the last ends, in points."""
    total = sum(variant.weight for variant in variants)
    ends = accumulate(variant.weight for variant in variants[:-1])
    return tuple(end * POINTS // total for end in ends)


def assign(arms: Arms, account_id: object) -> Variant:
    at = point(arms.salt, account_id)
    return arms.variants[sum(at >= end for end in bounds(arms.variants))]


def problem(variants: Sequence[Variant]) -> str | None:
    """Why these cannot be the variants of an experiment; None if they can."""
    if not 2 <= len(variants) <= MAX_VARIANTS:
        return f"an experiment has 2 to {MAX_VARIANTS} variants"
    if _repeated(variant.name for variant in variants):
        return "two variants have the same name"
    if any(not variant.plans or _repeated(variant.plans) for variant in variants):
        return "each variant offers a plan, and none twice"
    if any(variant.weight < 1 for variant in variants):
        return "a weight is 1 or more"
    return None


def _repeated(names: Iterable[str]) -> bool:
    listed = list(names)
    return len(set(listed)) < len(listed)
