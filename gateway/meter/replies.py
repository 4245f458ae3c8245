"""What the scripts reply, as numbers that Lua and Python name alike."""

from __future__ import annotations

from enum import IntEnum


class Verdict(IntEnum):
    """Whether a call is admitted (`admit.lua`). WRONG_EPOCH: the partition is in another epoch, or in none."""

    ADMITTED = 1
    STALE = 2
    NOT_LOADED = 3
    RATE_LIMITED = 4
    TOO_MANY_IN_FLIGHT = 5
    INSUFFICIENT_CREDITS = 6
    WRONG_EPOCH = 7
    IDEMPOTENT_REPLAY = 8
    IN_PROGRESS = 9
    KEY_REUSED = 10
    NOT_REPLAYABLE = 11
    BUDGET_NOT_LOADED = 12
    KEY_BUDGET_EXHAUSTED = 13
    EPOCH_NOT_OPEN = 14


class LoadResult(IntEnum):
    """Whether an account or a key budget is loaded (`load_account.lua`, `load_key_budget.lua`).

    STALE_SNAPSHOT: PostgreSQL was read before a change that Redis has seen since. EPOCH_NOT_OPEN: gateways still replay
    what they know. WRONG_EPOCH: the partition is in another epoch, or the account is not loaded.
    """

    STALE_SNAPSHOT = 0
    LOADED = 1
    EPOCH_NOT_OPEN = 2
    WRONG_EPOCH = 3


class CreditChangeResult(IntEnum):
    """Whether a committed change of credits is applied (`apply_credits.lua`)."""

    DUPLICATE = 0
    APPLIED = 1
    SEQUENCE_GAP = 2
    NOT_LOADED = 3
    WRONG_EPOCH = 4


class RaiseResult(IntEnum):
    """Whether a version is raised (`raise_version.lua`)."""

    NO = 0
    YES = 1
    WRONG_EPOCH = 2


class SettleResult(IntEnum):
    """Whether an admitted call is settled (`settle.lua`). KEY_CLAIMED: another call has its Idempotency-Key."""

    NO_HOLD = 0
    SETTLED = 1
    KEY_CLAIMED = 3


class LateSettleResult(IntEnum):
    """Whether a call without a hold is settled (`late_settlement.lua`)."""

    ALREADY_SETTLED = 0
    SETTLED = 1
    WRONG_EPOCH = 2
    STAYS_ABANDONED = 3


class EpochResult(IntEnum):
    """Whether a partition is in an epoch (`enter_epoch.lua`)."""

    NONE = 0
    CURRENT = 1
    STARTED = 2


class Done(IntEnum):
    """Whether a script has done its change; otherwise it has changed nothing."""

    NO = 0
    YES = 1
