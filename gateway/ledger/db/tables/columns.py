"""Column types and constraints that the tables share."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Identity,
    MetaData,
    Numeric,
    Text,
    TypeDecorator,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def new_id() -> UUID:
    """A UUIDv7 with sub-millisecond precision (RFC 9562 section 6.2, method 3).

    Ids of one process are in order of creation, and B-trees grow at their right edge.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    bits = milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62)
    return UUID(int=bits)


class Word(TypeDecorator[StrEnum]):
    """Text in the table, an enum member in Python."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__()
        self.kind = kind

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:  # noqa: ARG002 - its shape
        return None if value is None else self.kind(value)


def words() -> ARRAY[str]:
    return ARRAY(Text, as_tuple=True)


def id_column() -> Column[UUID]:
    return Column("id", PG_UUID(as_uuid=True), primary_key=True, default=new_id)


def serial_column() -> Column[int]:
    """For logs, whose rows are ordered."""
    return Column("id", BigInteger, Identity(always=True), primary_key=True)


def moment(name: str, **options: Any) -> Column[Any]:
    return Column(name, DateTime(timezone=True), **options)


def provider_column() -> Column[str]:
    """A payment provider by name, or `manual`."""
    return Column("provider", Text, nullable=False)


def provider_is_a_word() -> CheckConstraint:
    """The code knows which providers there are, so another one needs no migration."""
    return CheckConstraint("provider ~ '^[a-z][a-z0-9_]*$'", name="provider")


def created_at() -> Column[Any]:
    return moment("created_at", nullable=False, server_default=func.now())


def updated_at() -> Column[Any]:
    return moment("updated_at", nullable=False, server_default=func.now(), onupdate=func.now())


def metadata_column() -> Column[Any]:
    return Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb"))


def credits_column(name: str, **options: Any) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"), **options)


def money(name: str, **options: Any) -> Column[Decimal]:
    """An amount in the row's currency. No fixed scale: ISO 4217 has currencies of 0, 2 and 3 digits."""
    return Column(name, Numeric, nullable=False, **options)


def currency_column() -> Column[str]:
    return Column("currency", Text, nullable=False, server_default=text("'USD'"))


def one_of(column: str, values: Iterable[str] | type[StrEnum]) -> CheckConstraint:
    """Text with a CHECK, not a PostgreSQL enum, so that a migration can add and drop values."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def not_negative(*columns: str) -> list[CheckConstraint]:
    """NULL, such as `no limit`, passes the CHECK."""
    return [CheckConstraint(f"{column} >= 0", name=f"{column}_not_negative") for column in columns]


def positive(*columns: str) -> list[CheckConstraint]:
    return [CheckConstraint(f"{column} > 0", name=f"{column}_positive") for column in columns]


def iso_4217() -> CheckConstraint:
    return CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency_iso_4217")
