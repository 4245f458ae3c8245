"""The Lua scripts by which the meter asks Redis; each says in its file what it takes, does and replies."""

from __future__ import annotations

from gateway.meter.client.client import Script

ENTER, REPLAY, RESTORE, GRANT, BUMP, PEEK = _PLAIN = tuple(
    Script.load(name) for name in ("enter", "replay", "restore", "grant", "bump", "peek")
)
ADMIT, LOAD = Script.load("admit", "openings"), Script.load("load", "openings", "records")
SETTLE, LATE = Script.load("settle", "budgets"), Script.load("late", "budgets")
COUNT = Script.load("count", "records")

# Those that any call may need; each connection loads them before it serves.
SCRIPTS = (ADMIT, LOAD, SETTLE, LATE, *_PLAIN)
