"""Passwords are hashed in a thread, a limited number at a time, in the same time for every account."""

from __future__ import annotations

import asyncio
import time
from statistics import median

import argon2
import pytest

from gateway.api.account.login.password_hashing import MAX_WAITING, PasswordHasher
from gateway.api.errors import Busy
from tests.api.account.conftest import HASH, PASSWORD

HOME = "192.0.2.1"


async def test_event_loop_runs_on_while_passwords_are_hashed() -> None:
    hasher = PasswordHasher()
    hashing = asyncio.gather(*(hasher.hash(PASSWORD, address=HOME) for _ in range(3)))
    turns = 0
    while not hashing.done():
        await asyncio.sleep(0.0005)
        turns += 1
    assert turns > 3 * 3  # a loop that waited for each would have turned once for each
    await hashing
    hasher.close()


async def test_hash_beyond_the_queue_is_refused_at_once() -> None:
    hasher = PasswordHasher()
    waiting = [asyncio.create_task(hasher.verify(PASSWORD, HASH, address=HOME)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await hasher.verify(PASSWORD, HASH, address=HOME)
    for task in waiting[1:]:
        task.cancel()  # impatient callers free no place: the work they asked for is still to be done
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await hasher.verify(PASSWORD, HASH, address=HOME)
    hasher.close()
    await asyncio.wait(waiting)


async def test_queue_that_one_address_fills_has_room_for_others() -> None:
    hasher = PasswordHasher()
    crowd = [asyncio.create_task(hasher.verify(PASSWORD, HASH, address=HOME)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    other = asyncio.create_task(hasher.verify(PASSWORD, HASH, address="198.51.100.1"))
    assert (await other)[0]
    assert sum(task.done() for task in crowd) <= 3  # one under way, one more turn, and the one that made room
    with pytest.raises(Busy):
        await crowd[-1]
    hasher.close()
    await asyncio.wait(crowd)


async def test_addresses_of_one_ipv6_customer_share_their_turns() -> None:
    hasher = PasswordHasher()
    crowd = [
        asyncio.create_task(hasher.verify(PASSWORD, HASH, address=f"2001:db8::{number + 1:x}"))
        for number in range(MAX_WAITING)
    ]
    await asyncio.sleep(0)
    assert (await hasher.verify(PASSWORD, HASH, address="2001:db8:0:1::1"))[0]
    assert sum(task.done() for task in crowd) <= 3
    hasher.close()
    await asyncio.wait(crowd)


async def test_password_is_the_same_in_any_unicode_composition() -> None:
    hasher = PasswordHasher()
    composed = await hasher.hash("caf\u00e9 au lait", address=HOME)
    assert (await hasher.verify("cafe\u0301 au lait", composed, address=HOME))[0]
    assert not (await hasher.verify("cafe au lait", composed, address=HOME))[0]
    hasher.close()


async def test_weaker_hash_is_replaced() -> None:
    hasher = PasswordHasher()
    assert (await hasher.verify(PASSWORD, HASH, address=HOME)) == (True, None)
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    is_right, stronger = await hasher.verify(PASSWORD, weak, address=HOME)
    assert is_right
    assert stronger is not None
    assert stronger.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    hasher.close()


async def test_unknown_address_takes_as_long_as_a_wrong_password() -> None:
    hasher = PasswordHasher()
    took: dict[str | None, list[float]] = {HASH: [], None: []}
    for _ in range(7):
        for password_hash, times in took.items():
            began = time.process_time()
            assert not (await hasher.verify("guess", password_hash, address=HOME))[0]
            times.append(time.process_time() - began)
    known, unknown = (median(times) for times in took.values())
    assert 0.7 < known / unknown < 1.4
    hasher.close()
