"""200 connections and 20 MB/s of each attack, then 1,000 attackers of all kinds: the victim's calls, and the memory."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.guarantees.attacks.attackers import Load
from tests.guarantees.attacks.kinds import ATTACKS, MIB, Attack
from tests.guarantees.attacks.under_attack import UnderAttack, attackers_process
from tests.guarantees.attacks.victim import Calls, measured

CONNECTIONS, ALL_CONNECTIONS = 200, 1_000
BYTES_PER_SECOND = 20_000_000
QUIET_SECONDS, ATTACK_SECONDS = 6.0, 10.0
CLIENTS, PAUSE_SECONDS = 4, 0.04  # up to 100 calls a second
MAX_FAILED_SHARE = 0.01
MAX_RATIO = 5.0
MAX_GROWN_BYTES = 64 * MIB
OPEN_FILES = 8_192


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """Raises the limit of open files, which started processes inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, OPEN_FILES), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _calls(gateway: UnderAttack, path: str, seconds: float) -> Calls:
    """What the clients of the victim met in this time."""
    over_at = time.monotonic() + seconds
    clients = [
        gateway.victim(path).call_until(lambda _: time.monotonic() > over_at, pause_seconds=PAUSE_SECONDS)
        for _ in range(CLIENTS)
    ]
    calls = Calls()
    for each in await asyncio.gather(*clients):
        calls.statuses += each.statuses
        calls.seconds += each.seconds
    return calls


@asynccontextmanager
async def _peak_memory(gateway: UnderAttack) -> AsyncIterator[list[int]]:
    """Resident bytes of the worker within the block: at its begin, and at most."""
    peak = [int(gateway.worker.memory_info().rss)] * 2

    async def watch() -> None:
        while True:
            peak[1] = max(peak[1], int(gateway.worker.memory_info().rss))
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    try:
        yield peak
    finally:
        watching.cancel()


async def _attacked(gateway: UnderAttack, loads: list[Load], *, name: str, path: str) -> tuple[Calls, Calls, int]:
    """The victim's calls before and beside the attack, and by how many bytes the worker grew."""
    quiet = await _calls(gateway, path, QUIET_SECONDS)
    async with _peak_memory(gateway) as memory, attackers_process(loads) as met:
        attacked = await _calls(gateway, path, ATTACK_SECONDS)
    await gateway.come_to_rest()
    sent = sum(each["sent_bytes"] for each in met) / ATTACK_SECONDS / 1e6
    answers: dict[str, int] = {}
    for each in met:
        for answer, count in each["answers"].items():
            answers[answer] = answers.get(answer, 0) + count
    measured.append(
        f"| {name} | {sent:.1f} | {', '.join(f'{each} {count:,}' for each, count in sorted(answers.items()))} "
        f"| {_told(attacked)} | {1000 * quiet.quantile(0.99):.1f} "
        f"| {1000 * attacked.quantile(0.99):.1f} | {(memory[1] - memory[0]) / MIB:.0f} |"
    )
    return quiet, attacked, memory[1] - memory[0]


def _told(calls: Calls) -> str:
    """How many failed, and how."""
    how = ", ".join(f"{status}: {count}" for status, count in calls.statuses.items() if status != "200")
    return f"{calls.failed} of {calls.statuses.total():,}" + (f" ({how})" if how else "")


def _check(quiet: Calls, attacked: Calls) -> None:
    assert attacked.failed_share <= MAX_FAILED_SHARE, (attacked.statuses, measured[-1])
    assert attacked.quantile(0.99) <= MAX_RATIO * quiet.quantile(0.99), measured[-1]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_victim_of_a_large_attack_is_served_as_before(gateway: UnderAttack, attack: Attack) -> None:
    load = gateway.load(attack, connections=CONNECTIONS, bytes_per_second=BYTES_PER_SECOND)
    quiet, attacked, _ = await _attacked(gateway, [load], name=attack.name, path=attack.victim_path)
    _check(quiet, attacked)


async def test_thousand_attackers_of_all_kinds_grow_memory_within_64_mib(gateway: UnderAttack) -> None:
    each = ALL_CONNECTIONS // len(ATTACKS)
    rate = BYTES_PER_SECOND // len(ATTACKS)
    loads = [gateway.load(attack, connections=each, bytes_per_second=rate) for attack in ATTACKS]
    _, attacked, grown_bytes = await _attacked(gateway, loads, name="all together", path="/v1/call")
    assert attacked.failed_share <= MAX_FAILED_SHARE, (attacked.statuses, measured[-1])
    assert grown_bytes <= MAX_GROWN_BYTES, measured[-1]
