"""The Lua scripts by which the meter asks Redis; each says in its file what it takes, does and replies."""

from __future__ import annotations

from hashlib import sha1
from pathlib import Path

from gateway import metrics
from gateway.meter.client.packing import words
from gateway.metrics import BufferedHistogram

FOLDER = Path(__file__).parent


class Script:
    """A Lua script: its SHA-1 for EVALSHA, and its source for a server that does not have it."""

    def __init__(self, source: str, name: str = metrics.OTHER) -> None:
        self.source = source
        self.seconds = BufferedHistogram(metrics.METER_CALL.labels(name), metrics.CALL_SECONDS)
        self.sha = sha1(source.encode(), usedforsecurity=False).hexdigest().encode()
        self.by_digest = words(b"EVALSHA", self.sha)
        self.by_source = words(b"EVAL", source)

    @classmethod
    def load(cls, name: str, *libraries: str) -> Script:
        """The script of that name, behind the libraries that it uses."""
        return cls("".join((FOLDER / f"{each}.lua").read_text() for each in (*libraries, name)), name)


ENTER, REPLAY, RESTORE, GRANT, BUMP, PEEK = _PLAIN = tuple(
    Script.load(name) for name in ("enter", "replay", "restore", "grant", "bump", "peek")
)
ADMIT, LOAD = Script.load("admit", "openings"), Script.load("load", "openings", "records")
SETTLE, LATE = Script.load("settle", "budgets"), Script.load("late", "budgets")
COUNT = Script.load("count", "records")
TRIM, AUDIT, CORRECT = Script.load("trim"), Script.load("audit"), Script.load("correct")

# Those that any call may need; each connection loads them before it serves.
SCRIPTS = (ADMIT, LOAD, SETTLE, LATE, *_PLAIN)
