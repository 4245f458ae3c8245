"""What a process spooled outlives its death."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gateway.proxy.settle.spool import Spool
from tests.proxy.settle.test_spool import read


async def test_spool_of_a_killed_process_holds_all_that_it_appended(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.guarantees.processes.spool_writer", str(folder), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(500):
        appended = int(await process.stdout.readline())
    process.kill()
    await process.communicate()
    heir = Spool(folder, "heir")
    heir.open()
    (file,) = heir.files()
    found = read(file)
    assert len(found) > appended
    assert found == [b"%d" % number for number in range(len(found))]
    await heir.close()
