"""A small streamed body can be sent again whole; one of which a piece may be missing never is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.upstream.body_replay import MAX_REPLAY_BYTES, ReplayableBody


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def some_of(body: ReplayableBody, count: int) -> list[bytes]:
    pulled: list[bytes] = []
    async for chunk in body:
        pulled.append(chunk)
        if len(pulled) == count:
            break
    return pulled


@pytest.mark.parametrize("before", range(1, 5))
async def test_body_replay_starts_at_the_beginning(before: int) -> None:
    body = ReplayableBody(chunks(b"a", b"", b"c"))
    await some_of(body, before)

    assert body.is_replayable
    assert [chunk async for chunk in body] == [b"a", b"", b"c"]


async def test_body_replay_ends_above_its_limit() -> None:
    body = ReplayableBody(chunks(b"x" * MAX_REPLAY_BYTES, b"y", b"z"))
    await some_of(body, 1)
    assert body.is_replayable
    await some_of(body, 2)

    assert not body.is_replayable
    with pytest.raises(RuntimeError, match="again"):
        await some_of(body, 1)


async def test_body_replay_ends_with_a_cancelled_read() -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    body = ReplayableBody(stalled())
    pulling = asyncio.ensure_future(some_of(body, 2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    pulling.cancel()
    await asyncio.wait([pulling])

    assert not body.is_replayable
