"""Where records go: what the writers of all sections share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.importing.records import Record, id_of
from gateway.importing.sections import Section
from gateway.importing.values import Unfit
from gateway.ledger.audit import audit_log
from gateway.ledger.catalogue import plans
from policies.billing.money import CURRENCIES, fits, plain

_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(days=1)  # the clock of another machine, or its zone


class Result(StrEnum):
    """`present`: it is here already, from an earlier import or otherwise."""

    IMPORTED = "imported"
    PRESENT = "present"


class UnfitField(Unfit):
    """A record that does not fit because of this field."""

    def __init__(self, field: str | None, reason: str) -> None:
        super().__init__(reason)
        self.field = field


@dataclass(slots=True)
class Target:
    """The database under import, for one source.

    `plan_ids` and `product_ids` are by the keys of the source. With `is_dry` nothing is recorded in the audit log,
    whose entries wait in memory for a commit.
    """

    source: str
    now: datetime
    key_prefix: str
    peppers: Mapping[int, bytes]
    is_dry: bool = False
    has_plans: bool = False
    notes: dict[str, int] = field(default_factory=dict)
    plan_ids: dict[str, str] = field(default_factory=dict)
    product_ids: dict[str, UUID] = field(default_factory=dict)

    @property
    def actor(self) -> str:
        return f"import:{self.source}"

    def id_of(self, section: Section, key: str) -> UUID:
        return id_of(self.source, section, key)

    def check_past(self, record: Record, *names: str) -> None:
        """Raises UnfitField for what is yet to be, and what was in the last century."""
        for name in names:
            at: datetime | None = record.fields.get(name)
            if at is not None and not _EARLIEST <= at <= self.now + _AHEAD:
                raise UnfitField(name, f"is before {_EARLIEST.year} or in the future: {at.isoformat()}")

    def note(self, what: str) -> None:
        """Counts something that is no problem, but that an operator should know."""
        self.notes[what] = self.notes.get(what, 0) + 1

    async def record(
        self, connection: AsyncConnection, action: str, entity: str, *, entity_id: object, after: Mapping[str, Any]
    ) -> None:
        if not self.is_dry:
            values = {
                name: value if isinstance(value, bool | int | None) else str(value) for name, value in after.items()
            }
            await audit_log.append(
                connection, actor=self.actor, action=action, entity=entity, entity_id=entity_id, after=values
            )

    async def plan_id(self, connection: AsyncConnection, record: Record) -> str | None:
        """The id here of the record's plan. Raises UnfitField."""
        key: str | None = record.fields.get("plan")
        if key is None:
            return None
        if key not in self.plan_ids and not self.has_plans and (found := await plans.find(connection, key)) is not None:
            self.plan_ids[key] = found.id
        if key not in self.plan_ids:
            raise UnfitField("plan", f"refers to plan {key}, which is not here")
        return self.plan_ids[key]


class Writer(Protocol):
    """Writes the records of one section."""

    async def begin_batch(self, connection: AsyncConnection, batch: Sequence[Record]) -> None:
        """Looks up what `write` needs to know of all records."""

    async def write(self, connection: AsyncConnection, record: Record) -> Result:
        """Runs in a savepoint. Raises Unfit, and whatever the ledger raises."""


def check_money(currency: str, **amounts: Decimal) -> None:
    """Raises UnfitField for a currency that is not in use, and for amounts that it has no coins for."""
    if currency not in CURRENCIES:
        raise UnfitField("currency", f"is no currency in use: {currency}")
    for name, amount in amounts.items():
        if not fits(amount, currency):
            raise UnfitField(name, f"is no amount of {currency}: {plain(amount)}")


async def existing(connection: AsyncConnection, table: Table, ids: Collection[UUID]) -> set[UUID]:
    """Those of the ids that the table has."""
    found = await connection.scalars(select(table.c.id).where(table.c.id.in_(ids)))
    return set(found)


class Users:
    """Which users of a batch are here: those imported, for the sections that refer to them."""

    def __init__(self, target: Target, table: Table) -> None:
        self._target, self._table = target, table
        self.known: set[UUID] = set()

    async def look_up(self, connection: AsyncConnection, batch: Sequence[Record]) -> None:
        ids = {self._target.id_of(Section.USERS, record.fields["user"]) for record in batch}
        query = select(self._table.c.id).where(self._table.c.id.in_(ids), self._table.c.deleted_at.is_(None))
        self.known = set(await connection.scalars(query))

    def id_of(self, record: Record) -> UUID:
        """Raises UnfitField for a user that was not imported or is deleted."""
        user_id = self._target.id_of(Section.USERS, record.fields["user"])
        if user_id not in self.known:
            raise UnfitField(
                "user", f"refers to user {record.fields['user']}, who is not here: not imported, or deleted since"
            )
        return user_id
