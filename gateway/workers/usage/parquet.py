"""Turns the rows of a table, as COPY writes them in CSV, into Parquet. Needs the extra `parquet`.

Row groups are of some 65,000 rows, fewer if these are long, and any number of rows takes the memory of one.
"""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Collection, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
from pyarrow import compute as pc
from pyarrow import csv as pa_csv
from pyarrow import parquet
from sqlalchemy import BigInteger, DateTime, Integer, Numeric, SmallInteger, Table

from gateway.ledger.db.tables import metadata

BLOCK_BYTES = 1 << 20
GROUP_ROWS = 1 << 16
GROUP_BYTES = 1 << 27


def convert(source: Path, target: Path, table: str) -> None:
    """Writes a gzip file of CSV with a header as Parquet, flushes it, and compares it with what the disk gives back.

    Raises OSError, also where the rows do not fit the columns or are not read back as they were.
    """
    try:
        schema = _schema(source, metadata.tables[table])
        _write(_groups(source, schema), target, schema)
        _compare(target, _groups(source, schema))
    except pa.ArrowException as error:
        raise OSError(f"{target}: {error}") from error


def users_with(source: Path, columns: Collection[str]) -> set[UUID]:
    """The users whose rows have a value in one of the columns. Raises OSError."""
    try:
        with parquet.ParquetFile(source) as file:
            present = [name for name in columns if name in file.schema_arrow.names]
            found: set[str] = set()
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=["user_id", *present])
                for name in present:
                    found.update(rows["user_id"].filter(pc.is_valid(rows[name])).unique().to_pylist())
            return {UUID(user_id) for user_id in found}
    except pa.ArrowException as error:
        raise OSError(f"{source}: {error}") from error


def empty(source: Path, target: Path, columns: Collection[str], *, user_ids: Collection[UUID]) -> None:
    """Writes the file without what the rows of these users have in the columns, and compares it as `convert` does.

    Raises OSError.
    """
    try:
        with parquet.ParquetFile(source) as file:
            present = [name for name in columns if name in file.schema_arrow.names]
            owners = pa.array([str(user_id) for user_id in user_ids], pa.string())
            _write(_emptied(file, present, owners), target, file.schema_arrow)
            _compare(target, _emptied(file, present, owners))
    except pa.ArrowException as error:
        raise OSError(f"{target}: {error}") from error


def _emptied(file: parquet.ParquetFile, columns: Collection[str], owners: pa.Array) -> Iterator[Any]:
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group)
        is_theirs = pc.is_in(rows["user_id"], value_set=owners)
        for name in columns:
            kept = pc.if_else(is_theirs, pa.scalar(None, rows.schema.field(name).type), rows[name])
            rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), kept)
        yield rows


def _schema(source: Path, table: Table) -> pa.Schema:
    """The columns of the header. One that the table of this release lacks is text."""
    with gzip.open(source, "rt", encoding="utf-8", newline="") as stream:
        names = next(csv.reader(stream))
    return pa.schema([(name, _arrow_type(table, name)) for name in names])


def _arrow_type(table: Table, name: str) -> pa.DataType:
    kind = table.c[name].type if name in table.c else None
    match kind:
        case DateTime():
            return pa.timestamp("us", tz="UTC")
        case SmallInteger():
            return pa.int16()
        case BigInteger():
            return pa.int64()
        case Integer():
            return pa.int32()
        case Numeric(precision=int(precision), scale=int(scale)):
            return pa.decimal128(precision, scale)
        case _:
            return pa.string()


def _write(groups: Iterator[Any], target: Path, schema: pa.Schema) -> None:
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as raw:
        with parquet.ParquetWriter(raw, schema, compression="zstd") as writer:
            for rows in groups:
                writer.write_table(rows)
        raw.flush()
        os.fsync(raw.fileno())


def _compare(target: Path, groups: Iterator[Any]) -> None:
    with parquet.ParquetFile(target) as written:
        read = (written.read_row_group(group) for group in range(written.num_row_groups))
        for found, expected in zip_longest(read, groups):
            if found is None or expected is None or not found.equals(expected):
                raise OSError(f"{target} does not hold what was written")


def _groups(source: Path, schema: pa.Schema) -> Iterator[Any]:
    """The rows, in tables of GROUP_ROWS or GROUP_BYTES, and at most one block more."""
    blocks: list[Any] = []
    for block in _blocks(source, schema):
        blocks.append(block)
        if sum(each.num_rows for each in blocks) >= GROUP_ROWS or sum(each.nbytes for each in blocks) >= GROUP_BYTES:
            yield pa.concat_tables(blocks)
            blocks = []
    if blocks:
        yield pa.concat_tables(blocks)


def _blocks(source: Path, schema: pa.Schema) -> Iterator[Any]:
    """The rows of each block. PostgreSQL quotes an empty text, and a NULL not."""
    options = pa_csv.ConvertOptions(
        column_types=schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    with gzip.open(source) as stream:
        stream.readline()  # the header
        for block in _whole_rows(stream):
            yield pa_csv.read_csv(
                pa.BufferReader(block),
                read_options=pa_csv.ReadOptions(column_names=schema.names, block_size=len(block), use_threads=False),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True),
                convert_options=options,
            )


def _whole_rows(stream: gzip.GzipFile) -> Iterator[bytes]:
    """The text in blocks that end with a row: the reader of CSV refuses a row that is longer than its block."""
    rest = b""
    while chunk := stream.read(max(BLOCK_BYTES, len(rest))):
        block = rest + chunk
        end = _end_of_rows(block)
        rest = block[end:]
        if end:
            yield block[:end]
    if rest:
        yield rest


def _end_of_rows(block: bytes) -> int:
    """Where the last whole row ends. A line break after an odd number of quotes is in a value."""
    end, quotes = len(block), block.count(b'"')
    while line_break := block.rfind(b"\n", 0, end) + 1:
        quotes -= block.count(b'"', line_break, end)
        if quotes % 2 == 0:
            return line_break
        end = line_break - 1
    return 0
