"""The bytes in Redis, written down once: Python packs and unpacks by this module, and scripts get it as Lua constants.

Account, hash `gw:{pNN}:a:<account id>`: STATE_FIELD is the packed AccountState; VERSION_FIELD, CREDIT_SEQ_FIELD,
EPOCH_FIELD and CORRECTIONS_FIELD are numbers and a name; a ring of closed buckets for each window; what keys with a
budget spent. Catalogue, hash `gw:{pNN}:c`: what all accounts of a partition share. Holds, hash `gw:{pNN}:h`: a hold
line by request id. Journal, stream `gw:{pNN}:j`: an entry for each settlement, its record under `r<versions>`.
Idempotency claim, hash `gw:{pNN}:k:<account id>:<digest>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from policies.access.limits import STEP_MS, STEPS
from policies.usage import records

# A window is a ring of STEPS + 1 buckets. Each bucket is one step long, and numbered by the clock divided by the step.
RINGS = ("m", "h", "d")

# Account. KEY_PREFIX + key id names the budget of a key; BUDGET_PREFIX + budget id is a packed KeyBudget.
STATE_FIELD, VERSION_FIELD, CREDIT_SEQ_FIELD, EPOCH_FIELD, CORRECTIONS_FIELD = b"s", b"v", b"c", b"e", b"n"
STORED_FIELD, UNPUBLISHED_FIELD, KEY_PREFIX, BUDGET_PREFIX = b"i", b"u", b"k:", b"b:"
# Catalogue, besides VERSION_FIELD and EPOCH_FIELD.
RUN_ID_FIELD, OPENS_AT_FIELD, TRIMMED_FIELD, PUBLISHED_FIELD = b"r", b"o", b"t", b"x"
# Idempotency claim, besides EPOCH_FIELD.
FINGERPRINT_FIELD, REQUEST_ID_FIELD, RESPONSE_FIELD = b"f", b"r", b"a"
# Journal entry, behind the record: it corrects a call that was swept, or repeats one that Redis may have lost.
CORRECTION = (b"k", b"c")

# A byte behind the state says that the account has key budgets.
HAS_BUDGETS = b"\x01"

_STATE = Struct("<qqi12I")
_CLOCK_AND_BALANCE, _CLOCK_BALANCE_IN_FLIGHT = Struct("<qq"), Struct("<qqi")
_BUCKET = Struct("<II")  # calls counted, next bucket
_BUDGET, _BUDGET_START = Struct("<qqI"), Struct("<qq")
_STORED = Struct("<II")  # day, bytes of responses stored on it


class WindowState(NamedTuple):
    """The calls that count in a window: its oldest and its newest bucket, calls in the newest one, and in all."""

    first: int
    last: int
    used_in_last: int
    used: int


class AccountState(NamedTuple):
    """What a call reads and writes of its account, packed into one value. The newest buckets are not in the rings."""

    clock_ms: int
    balance: int
    in_flight: int
    windows: tuple[WindowState, ...]

    @classmethod
    def unpack(cls, packed: bytes) -> AccountState:
        """Raises struct.error if `packed` is too short."""
        clock_ms, balance, in_flight, *counts = _STATE.unpack_from(packed)
        return cls(clock_ms, balance, in_flight, tuple(WindowState(*counts[at : at + 4]) for at in range(0, 12, 4)))

    def packed(self) -> bytes:
        counts = [count for window in self.windows for count in window]
        return _STATE.pack(self.clock_ms, self.balance, self.in_flight, *counts)


class KeyBudget(NamedTuple):
    """What keys spent from a budget since the start of its period, in microseconds since the epoch."""

    since: int
    spent: int
    keys: int

    @classmethod
    def unpack(cls, packed: bytes) -> KeyBudget:
        """Raises struct.error if `packed` has another length."""
        return cls(*_BUDGET.unpack(packed))


class HoldLine(NamedTuple):
    """Credits set aside for a call, the process that will settle it, and the prefix of its record."""

    amount: int
    owner: str
    prefix: str

    def packed(self) -> str:
        return f"{self.amount}\t{self.owner}\t{self.prefix}"

    @classmethod
    def unpack(cls, packed: bytes) -> HoldLine:
        """Raises ValueError for what is no hold line."""
        amount, owner, prefix = packed.decode().split("\t", 2)
        return cls(int(amount), owner, prefix)


def _lua_format(packing: Struct) -> str:
    """`<qq2I` in the letters of Lua's struct library: `<i8i8I4I4`."""
    letters = {"q": "i8", "i": "i4", "I": "I4"}
    pairs = re.findall(r"(\d*)([qiI])", packing.format)
    return "'<" + "".join(letters[letter] * int(count or 1) for count, letter in pairs) + "'"


def _lua_table(values: Iterable[object]) -> str:
    return "{" + ", ".join(str(value) if isinstance(value, int) else f"'{value}'" for value in values) + "}"


def _lua_text(value: bytes | str) -> str:
    """Raises UnicodeDecodeError for what is no ASCII."""
    plain = value.decode("ascii") if isinstance(value, bytes) else value
    return "'" + plain.replace("\\", "\\\\").replace("\t", "\\t").replace("\x01", "\\1") + "'"


LUA: dict[str, str] = {
    "STEPS": str(STEPS),
    "STEP_MS": _lua_table(STEP_MS),
    "RINGS": _lua_table(RINGS),
    "STATE": _lua_format(_STATE),
    "STATE_BYTES": str(_STATE.size),
    "CLOCK_AND_BALANCE": _lua_format(_CLOCK_AND_BALANCE),
    "AFTER_BALANCE": str(_CLOCK_AND_BALANCE.size + 1),
    "CLOCK_BALANCE_IN_FLIGHT": _lua_format(_CLOCK_BALANCE_IN_FLIGHT),
    "AFTER_IN_FLIGHT": str(_CLOCK_BALANCE_IN_FLIGHT.size + 1),
    "HAS_BUDGETS": _lua_text(HAS_BUDGETS),
    "BUCKET": _lua_format(_BUCKET),
    "BUDGET": _lua_format(_BUDGET),
    "BUDGET_START": _lua_format(_BUDGET_START),
    "AFTER_SPENT": str(_BUDGET_START.size + 1),
    "STORED": _lua_format(_STORED),
    "STATE_FIELD": _lua_text(STATE_FIELD),
    "VERSION_FIELD": _lua_text(VERSION_FIELD),
    "CREDIT_SEQ_FIELD": _lua_text(CREDIT_SEQ_FIELD),
    "EPOCH_FIELD": _lua_text(EPOCH_FIELD),
    "CORRECTIONS_FIELD": _lua_text(CORRECTIONS_FIELD),
    "STORED_FIELD": _lua_text(STORED_FIELD),
    "UNPUBLISHED_FIELD": _lua_text(UNPUBLISHED_FIELD),
    "KEY_PREFIX": _lua_text(KEY_PREFIX),
    "BUDGET_PREFIX": _lua_text(BUDGET_PREFIX),
    "RUN_ID_FIELD": _lua_text(RUN_ID_FIELD),
    "OPENS_AT_FIELD": _lua_text(OPENS_AT_FIELD),
    "TRIMMED_FIELD": _lua_text(TRIMMED_FIELD),
    "PUBLISHED_FIELD": _lua_text(PUBLISHED_FIELD),
    "FINGERPRINT_FIELD": _lua_text(FINGERPRINT_FIELD),
    "REQUEST_ID_FIELD": _lua_text(REQUEST_ID_FIELD),
    "RESPONSE_FIELD": _lua_text(RESPONSE_FIELD),
    "CORRECTION_FIELD": _lua_text(CORRECTION[0]),
    "CORRECTION": _lua_text(CORRECTION[1]),
    "RECORD_FIELD": _lua_text(records.field_of(records.CURRENT)),
    "UNMARKED_RECORD_FIELD": _lua_text(records.field_of(records.RecordVersion(1, records.CURRENT.suffix))),
    "SUFFIX_VERSION": str(records.CURRENT.suffix),
    "PREFIX_MARK": _lua_text(records.PREFIX_MARK),
    "PREFIX_LENGTHS": _lua_table(len(records.PREFIXES[version]) for version in sorted(records.PREFIXES)),
    "CREATED_AT": str(records.IDENTITY_COLUMNS.index("created_at") + 1),
    "USER_ID": str(records.IDENTITY_COLUMNS.index("user_id") + 1),
    "KEY_ID": str(records.IDENTITY_COLUMNS.index("api_key_id") + 1),
    "CREDITS_IN_SUFFIX": str(records.CHARGE_COLUMNS.index("credits_charged") + 1),
    "NULL": _lua_text(records.NULL),
}


def lua_prelude(source: str, replies: type[IntEnum] | None = None) -> str:
    """Lua that defines those constants and reply names that a script uses, and no others: each costs every call."""
    known = LUA | {reply.name: str(int(reply)) for reply in replies or ()}
    used = set(re.findall(r"\b[A-Z][A-Z_]+\b", re.sub(r"--.*", "", source)))
    return "".join(f"local {name} = {value}\n" for name, value in known.items() if name in used)
