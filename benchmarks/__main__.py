"""`make bench`: every benchmark, one after the other."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "peers",
    "forwarding_cost",
    "frames",
    "frames --fields vary",
    "listener_cost",
    "upstream_cost",
    "scripts_cost",
    "usage_writer",
    "backups",
    "growth",
    "reports",
    "pages beside",
    "workers",
    "scale",
    "overhead",
    "refusal_cost",
    "ai_calls",
    "metering",
    "memory",
)


def main() -> None:
    for module in MODULES:
        print(f"\n## {module}\n", flush=True)
        subprocess.run([sys.executable, "-m", *f"benchmarks.{module}".split()], check=True)


if __name__ == "__main__":
    main()
