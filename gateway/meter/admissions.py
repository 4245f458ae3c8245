"""An admission as `admit.lua` takes and replies it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from gateway.meter.client.packing import word, words
from gateway.meter.replies import Verdict
from policies.access.key_budgets import Cap
from policies.access.limits import WINDOWS, Limits
from policies.model import Window

# The arguments of `admit.lua`, in its order. A call packs the terms once for all calls that share them.
TERMS = (
    "account_version",
    "catalogue_version",
    "amount",
    "least_balance",
    "limit_minute",
    "limit_hour",
    "limit_day",
    "limit_in_flight",
)
CLAIM = ("fingerprint", "claim_seconds")
BUDGET = ("budget_credits", "budget_id", "budget_since", "budget_keys", "budget_required")
ARGUMENTS = ("request_id", *TERMS, "owner_and_prefix", "epoch", *CLAIM, *BUDGET)

# Words of the command behind its digest: the count of the keys, three keys, the arguments without claim and budget.
WORDS = 1 + 3 + len(ARGUMENTS) - len(CLAIM) - len(BUDGET)
CLAIM_WORDS, BUDGET_WORDS = len(CLAIM), len(BUDGET)
# What a free call needs: no balance is below it.
_ANY_BALANCE = -(2**53)
NO_CLAIM = words(*[b""] * CLAIM_WORDS)


class Admission(NamedTuple):
    """The meter's decision. `used` and `reset_seconds` are in the order of WINDOWS.

    `epoch` is that of the admission; the settlement must name it. `stored_response` comes with IDEMPOTENT_REPLAY,
    `budget_remaining` with KEY_BUDGET_EXHAUSTED.
    """

    verdict: Verdict
    balance: int = 0
    used: tuple[int, ...] = ()
    reset_seconds: tuple[int, ...] = ()
    retry_after_seconds: int = 0
    violated: tuple[Window, ...] = ()
    epoch: str = ""
    stored_response: bytes = b""
    budget_remaining: int = 0


@lru_cache(maxsize=4096)
def packed_terms(account_version: int, catalogue_version: int, amount: int, required: int, limits: Limits) -> bytes:
    """The arguments of an admission that are the same in most calls of an account. `required` 0 is a free call."""
    least_balance = required - limits.overage if required > 0 else _ANY_BALANCE
    per_window = (-1 if limit is None else limit for limit in limits.per_window)
    in_flight = -1 if limits.in_flight is None else limits.in_flight
    return words(account_version, catalogue_version, amount, least_balance, *per_window, in_flight)


@lru_cache(maxsize=1024)
def packed_epoch(epoch: str) -> bytes:
    """The epoch of an admission, which is that of all calls of its partition."""
    return word(epoch.encode())


@lru_cache(maxsize=4096)
def packed_budget(cap: Cap, required: int) -> bytes:
    """The arguments of an admission by a key with a budget."""
    return words(cap.credits, str(cap.budget_id), cap.since, cap.keys, required)


_VERDICTS = {int(verdict): verdict for verdict in Verdict}  # a look-up takes 0.5 µs less than asking the Enum
_ADMITTED = Verdict.ADMITTED
_UNDECIDED = frozenset(
    (Verdict.STALE, Verdict.NOT_LOADED, Verdict.WRONG_EPOCH, Verdict.BUDGET_NOT_LOADED, Verdict.EPOCH_NOT_OPEN)
)


def parse_admission(reply: Sequence[Any], epoch: str = "") -> Admission:
    verdict = _VERDICTS[reply[0]]
    if verdict in _UNDECIDED:
        return Admission(verdict)
    used, reset = (reply[2], reply[4], reply[6]), (reply[3], reply[5], reply[7])
    if verdict is _ADMITTED:
        return Admission(verdict, reply[1], used, reset, 0, (), epoch)
    violated = tuple([window for bit, window in enumerate(WINDOWS) if reply[9] & 1 << bit]) if reply[9] else ()
    response = reply[10] if verdict is Verdict.IDEMPOTENT_REPLAY else b""
    remaining = reply[10] if verdict is Verdict.KEY_BUDGET_EXHAUSTED else 0
    return Admission(
        verdict, reply[1], used, reset, reply[8], violated, stored_response=response, budget_remaining=remaining
    )
