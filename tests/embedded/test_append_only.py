"""Guarantees of Valkey's append-only file: what is written reaches the disk, what is replaced goes piece by piece."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.embedded import append_only
from gateway.embedded.append_only import PIECE_BYTES, AppendOnlyFile
from gateway.embedded.stores import Stores
from tests.support.polling import eventually


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the files that were taken to the disk."""
    names = set[str]()

    def fsync(descriptor: int) -> None:
        names.add(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "appendonlydir").mkdir()
    return tmp_path


def part(folder: Path, name: str = "appendonly.aof.1.incr.aof", *, pieces: int = 1) -> Path:
    path = folder / "appendonlydir" / name
    path.write_bytes(b"x" * (pieces * PIECE_BYTES - 1))
    return path


def sizes_freed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes = list[int]()
    truncate = os.ftruncate

    def ftruncate(descriptor: int, size: int) -> None:
        sizes.append(size)
        truncate(descriptor, size)

    monkeypatch.setattr(os, "ftruncate", ftruncate)
    return sizes


def descriptors_of(path: Path) -> list[Path]:
    return [each for each in Path("/proc/self/fd").iterdir() if os.path.realpath(each).startswith(str(path))]


async def test_append_only_file_is_flushed_by_the_owner(tmp_path: Path, flushed: set[str]) -> None:
    async with await Stores.open(tmp_path) as stores, Redis.from_url(stores.redis_url) as redis:
        keeping = asyncio.create_task(stores.keep_running())
        await eventually(lambda: "appendonly.aof.1.incr.aof" in flushed)
        await redis.bgrewriteaof()
        await eventually(lambda: "appendonly.aof.2.incr.aof" in flushed)
        replaced = tmp_path / "valkey/appendonlydir/appendonly.aof.1.incr.aof"
        await eventually(lambda: not descriptors_of(replaced))
        keeping.cancel()
    assert flushed >= {"appendonly.aof.1.incr.aof", "appendonly.aof.2.incr.aof", "appendonly.aof.2.base.rdb"}
    assert not replaced.exists()


def test_append_only_file_frees_a_replaced_part_piece_by_piece(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append_only, "PAUSE_SECONDS", 0.0)
    sizes, file, path = sizes_freed(monkeypatch), AppendOnlyFile(folder, durable=False), part(folder, pieces=3)
    file.flush()
    path.unlink()
    assert descriptors_of(path)
    file.flush()
    assert sizes == [2 * PIECE_BYTES - 1, PIECE_BYTES - 1, 0]
    assert not descriptors_of(path)


def test_append_only_file_is_flushed_while_a_large_part_is_freed(
    folder: Path, flushed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_only, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(append_only, "PIECES_AT_ONCE", 2)
    sizes, file, path = sizes_freed(monkeypatch), AppendOnlyFile(folder, durable=True), part(folder, pieces=5)
    file.flush()
    path.unlink()
    for freed in (2, 4, 5):
        written = part(folder, f"appendonly.aof.{freed}.incr.aof")
        file.flush()
        assert len(sizes) == freed
        assert written.name in flushed
    assert not descriptors_of(path)
    file.close()


def test_append_only_file_is_not_flushed_if_not_durable(folder: Path, flushed: set[str]) -> None:
    part(folder)
    part(folder, "appendonly.aof.1.base.rdb")
    lazy, durable = AppendOnlyFile(folder, durable=False), AppendOnlyFile(folder, durable=True)
    lazy.flush()
    assert flushed == set()
    durable.flush()
    assert flushed == {"appendonly.aof.1.incr.aof", "appendonly.aof.1.base.rdb"}
    lazy.close()
    durable.close()


async def test_append_only_file_closes_without_freeing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append_only, "PAUSE_SECONDS", 60.0)
    sizes, file, path = sizes_freed(monkeypatch), AppendOnlyFile(folder, durable=False), part(folder, pieces=3)
    other = part(folder, "appendonly.aof.2.incr.aof")
    file.flush()
    path.unlink()
    freeing = asyncio.create_task(asyncio.to_thread(file.flush))
    await eventually(lambda: sizes)
    async with asyncio.timeout(10):
        await asyncio.to_thread(file.close)
        await freeing
    assert not descriptors_of(path)
    assert not descriptors_of(other)
