"""The terms of an admission as `admit.lua` takes them, packed once for all calls that have the same."""

from __future__ import annotations

from functools import lru_cache

from gateway.meter.client.packing import words
from policies.access.key_budgets import Cap
from policies.access.limits import Limits


@lru_cache(maxsize=4096)
def terms_of(account_version: int, catalogue_version: int, amount: int, required: int, limits: Limits) -> bytes:
    """The arguments of an admission that are the same in most calls of an account."""
    per_window = (-1 if limit is None else limit for limit in limits.per_window)
    in_flight = -1 if limits.in_flight is None else limits.in_flight
    return words(account_version, catalogue_version, amount, required, *per_window, in_flight)


@lru_cache(maxsize=4096)
def capped(cap: Cap) -> bytes:
    """The arguments of an admission by a key with a cap."""
    return words(cap.credits, str(cap.budget_id), cap.since, cap.keys)
