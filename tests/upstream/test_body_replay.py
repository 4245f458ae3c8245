"""A small streamed body can be sent again whole; one of which a piece may be missing never is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.body_replay import MAX_REPLAY_BYTES, ReplayableBody
from tests.upstream.scripted import eventually

PARTS = st.lists(st.sampled_from([b"", b"a", b"b" * 1_000, b"c" * (MAX_REPLAY_BYTES // 2)]), max_size=6)
STEPS = st.lists(st.one_of(st.integers(1, 4), st.sampled_from(["forget", "keep", "keep_for"])), max_size=6)


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


@given(parts=PARTS, steps=STEPS)
async def test_body_replay_is_whole_or_refused_and_bounded(parts: list[bytes], steps: list[int | str]) -> None:
    """Whatever is read and forgotten before, in whatever order."""
    body = ReplayableBody(chunks(*parts))
    for step in steps:
        if step == "forget":
            body.forget()
            assert body.kept_bytes == 0
        elif step == "keep_for":
            body.keep_for(0.0)
        elif step == "keep":
            body.keep()
        elif body.is_replayable and isinstance(step, int):
            pulled = await some_of(body, step)
            assert b"".join(parts).startswith(b"".join(pulled))
        assert body.kept_bytes <= MAX_REPLAY_BYTES
    if body.is_replayable:
        assert b"".join([chunk async for chunk in body]) == b"".join(parts)
    else:
        with pytest.raises(RuntimeError, match="again"):
            await some_of(body, 1)


async def test_body_replay_that_is_never_needed_keeps_nothing() -> None:
    body = ReplayableBody(chunks(b"a", b"b"))
    body.keep_for(0.0)

    assert [chunk async for chunk in body] == [b"a", b"b"]
    assert body.kept_bytes == 0
    assert not body.is_replayable


async def test_body_replay_ends_with_its_time() -> None:
    body = ReplayableBody(chunks(b"a", b"b"))
    body.keep_for(0.05)
    await some_of(body, 1)
    assert body.kept_bytes == 1

    await eventually(lambda: not body.is_replayable)
    assert body.kept_bytes == 0


async def test_body_replay_that_is_begun_outlasts_its_time() -> None:
    body = ReplayableBody(chunks(b"a", b"b"))
    body.keep_for(0.05)
    await some_of(body, 1)
    body.keep()
    body.keep_for(0.0)
    is_over = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, is_over.set)
    await is_over.wait()

    assert [chunk async for chunk in body] == [b"a", b"b"]
