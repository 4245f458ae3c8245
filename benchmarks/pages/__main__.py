"""`fill` writes a large database into a folder, `time` times every page on it, `beside` times calls beside visitors.

`python -m benchmarks.pages fill FOLDER --accounts 1000000 --calls 50000000`, then `time FOLDER`. `beside` needs no
folder.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.pages import beside, dataset
from benchmarks.pages.timing import time_pages
from benchmarks.pages.visitors import READING_SECONDS
from gateway.embedded.stores import Stores
from gateway.ledger.db import schema


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.pages", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    filling = commands.add_parser("fill")
    filling.add_argument("folder", type=Path)
    filling.add_argument("--accounts", type=int, default=10_000)
    filling.add_argument("--calls", type=int, default=500_000)
    commands.add_parser("time").add_argument("folder", type=Path)
    visiting = commands.add_parser("beside")
    visiting.add_argument("--people", type=int, default=20)
    visiting.add_argument("--rounds", type=int, default=5)
    visiting.add_argument("--seconds", type=int, default=8)
    visiting.add_argument("--reading-seconds", type=float, default=READING_SECONDS)
    visiting.add_argument("--calls-per-second", type=int, default=1500)
    visiting.add_argument("--only", choices=["portal", "console"], default="", help="the pages that all of them read")
    visiting.add_argument(
        "--first", action="store_true", help="calls get a core before pages do, by a real-time priority"
    )
    visiting.add_argument("--apart", action="store_true", help="calls have a core by `server.worker_cores`")
    given = parser.parse_args()
    print(describe(), flush=True)
    if given.command == "fill":
        asyncio.run(_fill(given.folder, accounts=given.accounts, calls=given.calls))
    elif given.command == "time":
        asyncio.run(_time(given.folder))
    else:
        beside.measure(
            people=given.people,
            rounds=given.rounds,
            seconds=given.seconds,
            reading_seconds=given.reading_seconds,
            calls_per_second=given.calls_per_second,
            only=given.only,
            is_first=given.first,
            is_apart=given.apart,
        )


async def _fill(folder: Path, *, accounts: int, calls: int) -> None:
    async with await Stores.open(folder, durable=False) as stores:
        await dataset.fill(stores.database_url, accounts=accounts, calls=calls)


async def _time(folder: Path) -> None:
    async with await Stores.open(folder, durable=False) as stores:
        await schema.upgrade(stores.database_url)
        await time_pages(stores.database_url, stores.redis_url)


if __name__ == "__main__":
    main()
