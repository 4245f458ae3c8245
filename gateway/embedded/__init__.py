"""The embedded stores: a real PostgreSQL and a real Valkey as child processes, with one data directory."""

import sys

if sys.platform == "win32":
    raise ImportError(
        "the embedded stores need Linux or macOS; on Windows run PostgreSQL and Valkey yourself "
        "and set database.url and redis.url"
    )
