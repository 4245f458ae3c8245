"""Time as the gateway sees it: aware UTC for records, monotonic seconds for durations.

Limits never use it; they run on the Redis clock (docs/decisions/0003-limits.md).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

monotonic_seconds = time.monotonic


def now() -> datetime:
    """The current instant, aware, in UTC."""
    return datetime.now(UTC)
