"""Appends to a spool until it is killed: `python -m tests.guarantees.processes.spool_writer FOLDER`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gateway.proxy.settle.spool import Spool

ENTRIES = 1000


async def main() -> None:
    spool = Spool(Path(sys.argv[1]), "killed")
    spool.open()
    for number in range(ENTRIES):
        spool.append(b"%d" % number)
        print(number, flush=True)  # noqa: T201 - the test reads it
    await asyncio.Event().wait()


asyncio.run(main())
