"""The spool is read back whatever happened to the file: no intact record is lost, and none is invented."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.proxy.settle import spool as module
from gateway.proxy.settle.spool import READ_BYTES, RESERVED_BYTES, Spool, SpoolFile, frame

# Payloads of settlements, and payloads that look like the framing.
TEXT = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"7", b"0 00000000 ", b"3 ", b'["a","b",1,"succeeded\\t200"]']),
    st.binary(max_size=10).map(frame),
).map(lambda payload: payload.replace(b"\n", b" ").replace(b"\x1e", b""))
TEXTS = st.lists(TEXT, max_size=8)
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def orphan(folder: Path, content: bytes) -> SpoolFile:
    folder.mkdir(exist_ok=True)
    path = folder / "dead.spool"
    path.write_bytes(content)
    file = SpoolFile.recover(path)
    assert file is not None
    return file


def read(file: SpoolFile) -> list[bytes]:
    found: list[bytes] = []
    while (chunk := file.next_chunk()) is not None:
        found += chunk.records
        file.advance(chunk)
    return found


def read_back(folder: Path, content: bytes) -> list[bytes]:
    file = orphan(folder, content)
    counted = file.pending
    found = read(file)
    assert counted == len(found)
    file.close()
    return found


def spans(texts: list[bytes]) -> Iterator[tuple[int, int]]:
    """The position of each record in the file."""
    start = 0
    for text in texts:
        end = start + len(frame(text))
        yield start, end
        start = end


def assert_only_missing(found: list[bytes], texts: list[bytes], hit: set[int]) -> None:
    """Every record that is found was written, in that order, and only damaged ones are missing."""
    intact = [text for number, text in enumerate(texts) if number not in hit]
    assert is_within(intact, found), "an intact record is lost"
    assert is_within(found, texts), "a record is invented"


def is_within(some: list[bytes], more: list[bytes]) -> bool:
    """Whether `more` is `some` with others between them."""
    rest = iter(more)
    return all(each in rest for each in some)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@SETTINGS
@given(texts=TEXTS)
def test_appended_records_are_read_in_order(folder: Path, texts: list[bytes]) -> None:
    assert read_back(folder, b"".join(map(frame, texts))) == texts


@SETTINGS
@given(texts=TEXTS, data=st.data())
def test_truncated_spool_file_gives_every_whole_record(folder: Path, texts: list[bytes], data: st.DataObject) -> None:
    content = b"".join(map(frame, texts))
    length = data.draw(st.integers(0, len(content)))
    hit = {number for number, (_, end) in enumerate(spans(texts)) if end > length}
    assert_only_missing(read_back(folder, content[:length]), texts, hit)


@SETTINGS
@given(texts=TEXTS.filter(bool), data=st.data())
def test_flipped_byte_damages_only_its_own_record(folder: Path, texts: list[bytes], data: st.DataObject) -> None:
    content = bytearray(b"".join(map(frame, texts)))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b"\n\x1e 09")))
    hit = {number for number, (start, end) in enumerate(spans(texts)) if start <= position < end}
    assert_only_missing(read_back(folder, bytes(content)), texts, hit)


def test_flipped_byte_is_detected_at_every_position(folder: Path) -> None:
    """Exhaustive: every byte takes every value."""
    texts = [b"first", b"", b"x 0 00000000 ", b'["a", 3]']  # the third ends like a record
    content = b"".join(map(frame, texts))
    assert len(content) < 100
    for number, (start, end) in enumerate(spans(texts)):
        for position in range(start, end):
            for value in range(256):
                damaged = content[:position] + bytes([value]) + content[position + 1 :]
                found = [each for line in damaged.split(b"\n") if (each := module._unframe(line)) is not None]
                assert_only_missing(found, texts, {number})
    assert read_back(folder, content) == texts


@SETTINGS
@given(before=TEXTS, garbage=st.binary(max_size=200), after=TEXTS)
def test_garbage_between_records_damages_none(
    folder: Path, before: list[bytes], garbage: bytes, after: list[bytes]
) -> None:
    content = b"".join([*map(frame, before), garbage, *map(frame, after)])
    found = read_back(folder, content)
    assert found[: len(before)] == before
    assert len(after) == 0 or found[-len(after) :] == after


@pytest.mark.parametrize("size", [READ_BYTES, 3 * READ_BYTES + 1, module.MAX_RECORD_BYTES, 2_500_000])
def test_record_longer_than_one_read_is_found(folder: Path, size: int) -> None:
    content = frame(b"before") + b"\0" * size + frame(b"x" * (READ_BYTES + 7)) + frame(b"after")
    assert read_back(folder, content) == [b"before", b"x" * (READ_BYTES + 7), b"after"]


def test_many_records_are_read_in_chunks(folder: Path) -> None:
    texts = [b"%d" % number for number in range(20_000)]
    file = orphan(folder, b"".join(map(frame, texts)))
    chunk = file.next_chunk()
    assert chunk is not None
    assert 0 < len(chunk.records) < len(texts)
    assert read(file) == texts
    file.close()


@pytest.mark.parametrize("content", [b"", b"\n", b"#!/bin/sh\necho\n", b"\x7fELF" + bytes(range(256)) * 40])
async def test_empty_and_unrelated_files_give_nothing(folder: Path, content: bytes) -> None:
    assert read_back(folder, content) == []
    spool = Spool(folder, "me")
    spool.open()
    (file,) = spool.files()
    assert file.next_chunk() is None
    spool.discard(file)
    await spool.close()
    assert names(folder) == (["dead.damaged"] if content.strip() else [])
    assert not content.strip() or (folder / "dead.damaged").read_bytes() == content


async def test_spool_ignores_what_is_no_regular_file(folder: Path, tmp_path: Path) -> None:
    orphan(folder, b"").remove()
    (folder / "folder.spool").mkdir()
    (tmp_path / "elsewhere").write_bytes(frame(b"x"))
    (folder / "link.spool").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / "pipe.spool")
    spool = Spool(folder, "me")
    spool.open()
    assert spool.files() == ()
    await spool.close()
    assert names(folder) == ["folder.spool", "link.spool", "pipe.spool"]


async def test_spool_is_recovered_when_its_owner_is_dead_and_not_before(folder: Path) -> None:
    living, successor = Spool(folder, "living"), Spool(folder, "successor")
    living.open()
    living.append(b"one")
    successor.open()
    assert successor.files() == ()
    await living.close()
    other = Spool(folder, "other")
    other.open()
    (file,) = other.files()
    assert (other.pending, read(file)) == (1, [b"one"])
    other.recover_orphans()
    assert successor.files() == (), "what another has recovered is nobody else's"
    other.discard(file)
    await other.close()
    await successor.close()
    assert names(folder) == []


@pytest.mark.parametrize("content", [None, b"another's"])
async def test_spool_file_removed_by_its_owner_is_not_recovered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    """The owner removes it between opening and locking; another file may have its name by then."""
    orphan(folder, frame(b"one")).close()
    path, whole = folder / "dead.spool", fcntl.flock

    def late(descriptor: int, how: int) -> None:
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        whole(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert SpoolFile.recover(path) is None
    assert names(folder) == ([] if content is None else ["dead.spool"])


async def test_spool_file_is_locked_before_it_has_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []
    whole = fcntl.flock

    def watched(descriptor: int, how: int) -> None:
        named.extend(path.name for path in folder.glob("*.spool2"))
        whole(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", watched)
    spool = Spool(folder, "me")
    spool.open()
    assert named == []
    assert names(folder) == ["me.spool2"]
    await spool.close()


async def test_spool_without_records_leaves_no_file(folder: Path) -> None:
    spool = Spool(folder, "me")
    spool.open()
    spool.append(b"one")
    (file,) = spool.files()
    assert read(file) == [b"one"]
    assert (folder / "me.spool2").stat().st_size > 0
    spool.discard(file)
    assert (folder / "me.spool2").stat().st_size == 0
    assert spool.files() == ()
    spool.append(b"two")
    assert read(file) == [b"two"]
    spool.discard(file)
    await spool.close()
    assert names(folder) == []


async def test_appended_records_reach_the_disk_in_one_sync(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    whole = os.fdatasync

    def counted(descriptor: int) -> None:
        whole(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fdatasync", counted)
    spool = Spool(folder, "me")
    spool.open()
    for _ in range(100):
        spool.append(b"x")
        await asyncio.sleep(0)
    await spool.close()
    assert synced == [100 * len(frame(b"x"))]


def _full(*_: object) -> int:
    raise OSError(28, "No space left on device")


async def test_partly_written_record_is_truncated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(folder, "me")
    spool.open()
    spool.append(b"one")
    whole = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda descriptor, data: whole(descriptor, data[:-3]))
        with pytest.raises(OSError, match="a part"):
            spool.append(b"two")
        patched.setattr(os, "write", _full)
        with pytest.raises(OSError, match="No space"):
            spool.append(b"three")
    spool.append(b"four")
    assert (folder / "me.spool2").read_bytes() == frame(b"one") + frame(b"four")
    await spool.close()


async def test_record_beyond_the_size_limit_is_refused(folder: Path) -> None:
    spool = Spool(folder, "me")
    spool.open()
    with pytest.raises(OSError, match="too long"):
        spool.append(b"x" * module.MAX_RECORD_BYTES)
    longest = b"x" * (module.MAX_RECORD_BYTES // 2 - 1)
    spool.append(longest)
    spool.append(b"short")
    (file,) = spool.files()
    assert read(file) == [longest, b"short"]
    await spool.close()


async def test_spool_folder_that_cannot_be_created_is_tried_again(tmp_path: Path) -> None:
    in_the_way = tmp_path / "spool"
    in_the_way.write_text("a file")
    spool = Spool(in_the_way, "me")
    spool.open()
    with pytest.raises(OSError, match="exists"):
        spool.append(b"one")
    in_the_way.unlink()
    spool.append(b"one")
    assert spool.pending == 1
    await spool.close()


async def test_damaged_spool_is_set_aside_when_the_rest_is_settled(folder: Path) -> None:
    content = frame(b"one") + b"damage" + frame(b"two")
    file = orphan(folder, content)
    file.close()
    spool = Spool(folder, "me")
    spool.open()
    (file,) = spool.files()
    assert read(file) == [b"one", b"two"]
    spool.discard(file)
    await spool.close()
    assert names(folder) == ["dead.damaged"]
    assert (folder / "dead.damaged").read_bytes() == content


def test_spool_reserves_space_ahead_and_again_after_it_was_emptied(tmp_path: Path) -> None:
    file = SpoolFile.create(tmp_path / "a.spool2")
    try:
        assert file.path.stat().st_size == 0
        if not file.reserve():
            pytest.skip("this file system reserves no space")
        assert file.path.stat().st_blocks * 512 >= RESERVED_BYTES
        for _ in range(12):
            file.append(b"x" * (1 << 19))
        assert file.path.stat().st_blocks * 512 >= file.path.stat().st_size + RESERVED_BYTES // 4
        file.truncate()
        assert file.path.stat().st_size == 0
        assert file.path.stat().st_blocks * 512 >= RESERVED_BYTES
    finally:
        file.close()


async def test_spool_file_that_cannot_be_named_is_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    spool = Spool(folder, "me")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", full)
        spool.open()
    spool.append(b"7")
    assert names(folder) == ["me.spool2"]
    await spool.close()
