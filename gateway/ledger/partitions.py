"""Monthly partitions of the tables that grow for ever: made ahead, filled from the default one, dropped when old."""

from __future__ import annotations

import re

PARTITIONED = ("usage_tracking", "analysis_history")

_NAME = re.compile(rf"({'|'.join(PARTITIONED)})_(\d{{4}})_(\d{{2}})")


def is_partition(table_name: str) -> bool:
    """Whether the name is one of a month's partition or of a default one."""
    return _NAME.fullmatch(table_name) is not None or table_name in {f"{table}_default" for table in PARTITIONED}
