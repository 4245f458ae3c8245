"""Reads rows into frozen dataclasses, whose fields name the columns, and pages lists by cursor."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, Table, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")

# Microseconds since 1970 in 56 bits, enough until the year 4253, and then a UUID.
CURSOR = r"^[0-9a-f]{1,46}$"
_CURSOR = re.compile(CURSOR[1:-1])
_UUID_BITS = 128
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
MAX_NUMBER = 2**63 - 1


class InvalidCursor(ValueError):  # noqa: N818 - a response (400), not a fault
    """The cursor did not come from a list."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list; `next_cursor` is None on the last page."""

    data: tuple[T, ...]
    next_cursor: str | None


def columns(table: Table, kind: type[Any]) -> list[ColumnElement[Any]]:
    """The columns of the table that the dataclass names."""
    return [table.c[field.name] for field in fields(kind)]


def value(kind: Callable[..., T], row: Row[Any]) -> T:
    return kind(**row._mapping)  # noqa: SLF001 - public by SQLAlchemy's documentation


async def page_by_time(
    connection: AsyncConnection,
    query: Select[Any],
    kind: Callable[..., T],
    *,
    key: str = "id",
    cursor: str | None,
    limit: int,
) -> Page[T]:
    """The rows after `cursor`, newest first by (created_at, `key`), both of which the dataclass must name."""
    rows = (await connection.execute(newest_after(query, cursor, key=key).limit(limit + 1))).all()
    last = rows[limit - 1]._mapping if len(rows) > limit else None  # noqa: SLF001 - see `value`
    return Page(
        tuple(value(kind, row) for row in rows[:limit]),
        None if last is None else _cursor_at(last["created_at"], last[key]),
    )


def newest_after(query: Select[Any], cursor: str | None, *, key: str = "id") -> Select[Any]:
    """The query with its rows after `cursor`, newest first by (created_at, `key`). Raises InvalidCursor."""
    created_at, tie = query.selected_columns["created_at"], query.selected_columns[key]
    if cursor is not None:
        query = query.where(tuple_(created_at, tie) < tuple_(*_time_and_id(cursor)))
    return query.order_by(created_at.desc(), tie.desc())


async def page_by_number(
    connection: AsyncConnection, query: Select[Any], kind: type[T], *, cursor: str | None, limit: int
) -> Page[T]:
    """The rows after `cursor`, newest first by their serial `id`."""
    number = query.selected_columns["id"]
    if cursor is not None:
        query = query.where(number < decode_cursor(cursor))
    rows = (await connection.execute(query.order_by(number.desc()).limit(limit + 1))).all()
    data = tuple(value(kind, row) for row in rows[:limit])
    return Page(data, encode_cursor(rows[limit - 1].id) if len(rows) > limit else None)


async def page_by_offset(
    connection: AsyncConnection, query: Select[Any], kind: Callable[..., T], *, cursor: str | None, limit: int
) -> Page[T]:
    """The rows of an ordered query from `cursor` on, which counts them: for orders in which rows seldom move."""
    first = 0 if cursor is None else decode_cursor(cursor)
    rows = (await connection.execute(query.offset(first).limit(limit + 1))).all()
    data = tuple(value(kind, row) for row in rows[:limit])
    return Page(data, encode_cursor(first + limit) if len(rows) > limit else None)


def ordered(key: ColumnElement[Any], sort: str) -> ColumnElement[Any]:
    """By the key, descending where the name that was asked for has a leading `-`; rows without it come last."""
    return key.desc().nulls_last() if sort.startswith("-") else key.asc().nulls_last()


def encode_cursor(number: int) -> str:
    """Every hexadecimal number of this length is a valid cursor, so a schema can validate cursors."""
    return f"{number:x}"


def decode_cursor(cursor: str) -> int:
    """The number that the next page follows. Raises InvalidCursor."""
    return min(_decoded(cursor), MAX_NUMBER)


def _cursor_at(created_at: datetime, identity: UUID) -> str:
    return encode_cursor((created_at - _EPOCH) // _MICROSECOND << _UUID_BITS | identity.int)


def _time_and_id(cursor: str) -> tuple[datetime, UUID]:
    microseconds, identity = divmod(_decoded(cursor), 1 << _UUID_BITS)
    return _EPOCH + microseconds * _MICROSECOND, UUID(int=identity)


def _decoded(cursor: str) -> int:
    if not _CURSOR.fullmatch(cursor):
        raise InvalidCursor(f"not a cursor of this list: {cursor!r}")
    return int(cursor, 16)
