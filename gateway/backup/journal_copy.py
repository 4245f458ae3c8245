"""Entries of the journal as lines of JSON: settled calls that PostgreSQL had not stored yet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import IO, Any

from gateway.meter.journal import START, Journal, JournalEntry
from gateway.workers.usage.entry_writing import PartitionEntry
from policies.usage.records import RecordVersion

READ_ENTRIES = 2_000


async def copy_journal(journal: Journal, stream: IO[bytes]) -> int:
    """Writes every entry of every partition; gives how many.

    Entries that the usage writer trims meanwhile are in PostgreSQL already, for whoever reads that afterwards.
    """
    count, after = 0, dict.fromkeys(range(journal.partitions), START)
    while after:
        pages = await journal.read(after, READ_ENTRIES)
        for partition, page in pages.items():
            stream.write(b"".join(_line(partition, entry) for entry in page.entries))
            count += len(page.entries)
        after = {partition: page.last_id for partition, page in pages.items()}
    return count


def read_entries(stream: Iterable[bytes], count: int) -> Iterator[list[PartitionEntry]]:
    """The entries in batches of up to `count`."""
    batch: list[PartitionEntry] = []
    for line in stream:
        batch.append(_entry(json.loads(line)))
        if len(batch) == count:
            yield batch
            batch = []
    if batch:
        yield batch


def _line(partition: int, entry: JournalEntry) -> bytes:
    """Bytes that are not UTF-8 become lone surrogates, which JSON escapes."""
    fields = {
        "partition": partition,
        "id": entry.id,
        "version": entry.version,
        "record": entry.line.decode("utf-8", "surrogateescape"),
        "is_correction": entry.is_correction,
    }
    return f"{json.dumps(fields)}\n".encode()


def _entry(fields: dict[str, Any]) -> PartitionEntry:
    version = None if fields["version"] is None else RecordVersion(*fields["version"])
    line = fields["record"].encode("utf-8", "surrogateescape")
    return PartitionEntry(fields["partition"], JournalEntry(fields["id"], version, line, fields["is_correction"]))
