"""The Lua scripts by which the meter decides in Redis; each file says what it takes, does and replies.

A script names its keys and arguments once, where it unpacks KEYS and ARGV; Python reads their order from there. It uses
the constants of `gateway/meter/layout.py` and its reply enum by name, and libraries of the folder `lib`.
"""

from __future__ import annotations

import re
from enum import IntEnum
from hashlib import sha1
from pathlib import Path

from gateway import metrics
from gateway.meter import replies
from gateway.meter.client.packing import Word, words
from gateway.meter.layout import lua_prelude
from gateway.metrics import BufferedHistogram

FOLDER = Path(__file__).parent


class Script:
    """A Lua script: its SHA-1 for EVALSHA, its source for a server without it, the names of its keys and arguments."""

    def __init__(self, source: str, name: str = metrics.OTHER) -> None:
        self.source = source
        self.seconds = BufferedHistogram(metrics.METER_CALL.labels(name), metrics.CALL_SECONDS)
        self.sha = sha1(source.encode(), usedforsecurity=False).hexdigest().encode()
        self.by_digest = words(b"EVALSHA", self.sha)
        self.by_source = words(b"EVAL", source)
        self.keys = _names(source, "KEYS")
        self.arguments = _names(source, "ARGV")

    @classmethod
    def load(cls, name: str, *libraries: str, replies: type[IntEnum] | None = None) -> Script:
        """The script of that name, behind the constants and libraries that it uses."""
        files = [FOLDER / "lib" / f"{library}.lua" for library in libraries] + [FOLDER / f"{name}.lua"]
        source = "".join([file.read_text() for file in files])
        return cls(lua_prelude(source, replies) + _indexed(source), name)

    def ordered(self, **named: Word) -> list[Word]:
        """The arguments in the script's order. The last ones may be missing. Raises KeyError for any other name."""
        return [named[name] for name in self.arguments[: len(named)]]


def _indexed(source: str) -> str:
    """The source with `KEYS[1], KEYS[2]` in place of `unpack(KEYS)`, which is slower by a call."""
    for table in ("KEYS", "ARGV"):
        values = ", ".join(f"{table}[{place}]" for place, _ in enumerate(_names(source, table), 1))
        source = source.replace(f" = unpack({table})", f" = {values}", 1)
    return source


def _names(source: str, table: str) -> tuple[str, ...]:
    declared = re.search(rf"^local ([\w,\s]+?) = (?:unpack\({table}\)|{table}\[1\])", source, re.MULTILINE)
    return () if declared is None else tuple(re.split(r",\s*", declared[1]))


ADMIT = Script.load("admit", "replay_window", "windows", replies=replies.Verdict)
SETTLE = Script.load("settle", "prefixes", "key_budgets", replies=replies.SettleResult)
LATE_SETTLEMENT = Script.load("late_settlement", "prefixes", "key_budgets", replies=replies.LateSettleResult)
LOAD_ACCOUNT = Script.load("load_account", "replay_window", "records", replies=replies.LoadResult)
LOAD_KEY_BUDGET = Script.load("load_key_budget", "records", replies=replies.LoadResult)
ACCOUNT_SNAPSHOT = Script.load("account_snapshot", "replay_window", "windows", replies=replies.Verdict)
APPLY_CREDITS = Script.load("apply_credits", "account_epoch", replies=replies.CreditChangeResult)
RAISE_VERSION = Script.load("raise_version", "account_epoch", replies=replies.RaiseResult)
MARK_PUBLISHED = Script.load("mark_published", replies=replies.Done)
ENTER_EPOCH = Script.load("enter_epoch", "replay_window", replies=replies.EpochResult)
REPLAY_SETTLEMENT = Script.load("replay_settlement")
RESTORE_HOLD = Script.load("restore_hold", replies=replies.Done)
TRIM_JOURNAL = Script.load("trim_journal", replies=replies.Done)
PARTITION_SNAPSHOT = Script.load("partition_snapshot")
CORRECT_BALANCE = Script.load("correct_balance", replies=replies.Done)

# Those that any call may need; each connection loads them before it serves.
SCRIPTS = (
    ADMIT,
    SETTLE,
    LATE_SETTLEMENT,
    LOAD_ACCOUNT,
    ENTER_EPOCH,
    REPLAY_SETTLEMENT,
    RESTORE_HOLD,
    APPLY_CREDITS,
    RAISE_VERSION,
    MARK_PUBLISHED,
    ACCOUNT_SNAPSHOT,
)
