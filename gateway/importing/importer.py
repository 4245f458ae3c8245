"""Imports one source: section by section, in batches of one transaction each.

Ids are made of the source's name and keys, so an import that broke off or that is repeated passes over what is here. A
dry run does the same in one transaction that is rolled back, but for usage, of which it checks each row only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.importing.accounts import KeyWriter, UserWriter
from gateway.importing.catalogue import PlanWriter, ProductWriter
from gateway.importing.import_record import ImportRecord
from gateway.importing.mapping import InvalidMapping, SourceMapping
from gateway.importing.payments import PaymentWriter
from gateway.importing.records import Problem, Record, RecordReader, reader
from gateway.importing.sections import Section
from gateway.importing.source import MOST_DUPLICATES, NoUsableKey, SourceDatabase, SourceTable
from gateway.importing.subscriptions import CreditWriter, SubscriptionWriter
from gateway.importing.targets import Result, Target, UnfitField, Writer
from gateway.importing.usage import UsageWriter
from gateway.importing.values import Unfit, reference
from gateway.ledger.db.errors import AlreadyExists, InUse, InvalidValue, NotFound
from gateway.ledger.db.session import Database, lift_timeouts
from gateway.ledger.usage.ingestion import MalformedLines

BATCH, USAGE_BATCH = 200, 2_000
_REFUSALS = (AlreadyExists, InUse, InvalidValue, NotFound, DataError, IntegrityError)
_TAKEN = {
    "uq_users_email_lower": ("email", "another account has this address"),
    "uq_users_external_id": ("external_id", "another account has this id"),
    "uq_api_keys_key_hash": (None, "a key of this digest is here already"),
    "uq_subscription_plans_name": ("name", "another plan has this name"),
}
# A fixed number, "import" in ASCII: two imports at a time would bring the same balance twice.
_LOCK = text("SELECT pg_advisory_xact_lock(:key)")
ADVISORY_LOCK = int.from_bytes(b"import", "big")


class RowsRefused(Exception):  # noqa: N818 - named for the condition
    """A strict import met a row that does not fit; nothing of its batch was written."""


@dataclass(slots=True)
class SectionCounts:
    """`refused` is of rows. Each row read is imported, present or refused."""

    table: str
    read: int = 0
    imported: int = 0
    present: int = 0
    refused: int = 0


@dataclass(slots=True)
class ImportReport:
    sections: dict[Section, SectionCounts] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def refused(self) -> int:
        return sum(counts.refused for counts in self.sections.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """Who watches: told of each problem, and of the rows of a section that are done, of how many."""

    problem: Callable[[Problem], None]
    progress: Callable[[Section, int, int], None]


class Importer:
    def __init__(
        self,
        database: Database,
        source: SourceDatabase,
        target: Target,
        *,
        observer: Observer,
        is_strict: bool = False,
        record: ImportRecord | None = None,
    ) -> None:
        """`record` stores the progress after each batch."""
        self._database, self._source, self._target = database, source, target
        self._observer, self._is_strict = observer, is_strict
        self._record, self._totals = record, dict[Section, int]()
        self._enclosing: AsyncConnection | None = None
        self.report = ImportReport(notes=target.notes)

    async def run(self, mapping: SourceMapping) -> ImportReport:
        """Raises InvalidMapping before anything is imported, ImportCanceled after a batch, SourceUnusable, RowsRefused,
        DatabaseUnavailable.
        """
        readers = await self._readers(mapping)
        self._target.has_plans = Section.PLANS in readers
        if not self._target.is_dry:
            return await self._import(readers)
        async with self._database.transaction() as connection:
            await lift_timeouts(connection)
            self._enclosing = connection
            try:
                return await self._import(readers)
            finally:
                self._enclosing = None
                await connection.rollback()

    async def _readers(self, mapping: SourceMapping) -> dict[Section, RecordReader]:
        found = {}
        for section, wanted in mapping.tables().items():
            try:
                table = await self._source.find_table(wanted.table, key=wanted.key, where=wanted.where)
            except NoUsableKey as error:
                raise InvalidMapping(f"{section}.key: {error}") from error
            if table is not None:
                found[section] = reader(section, wanted, table=table, source=mapping.source)
                await self._check_keys_are_unique(table)
            elif not wanted.optional:
                names = ", ".join(await self._source.table_names())
                raise InvalidMapping(f"{section}.table: there is no table {wanted.table}; there are {names}")
        if not found:
            raise InvalidMapping("no table of the mapping is in the source")
        return found

    async def _import(self, readers: dict[Section, RecordReader]) -> ImportReport:
        self._totals = {section: await self._source.count(records.table) for section, records in readers.items()}
        for section, records in readers.items():
            counts = self.report.sections[section] = SectionCounts(records.table.name)
            await self._refuse_rows_without_key(records, counts)
            total = self._totals[section]
            writer = None if section is Section.USAGE else await self._writer(section, records)
            usage = UsageWriter(self._target)
            size = BATCH if writer else USAGE_BATCH
            self._observer.progress(section, 0, total)
            await self._advance()
            async for rows in self._source.pages(records.table, records.columns, size=size):
                batch = self._read(rows, records, counts)
                if writer is not None:
                    await self._write(writer, batch, records)
                else:
                    await self._write_usage(usage, batch, records)
                self._observer.progress(section, counts.read, total)
                await self._advance()
        return self.report

    async def _advance(self) -> None:
        if self._record is None:
            return
        begun = {section: asdict(counts) for section, counts in self.report.sections.items()}
        sections = [
            {"section": str(section), "total": total, **begun.get(section, {})}
            for section, total in self._totals.items()
        ]
        await self._record.advance(sections)

    async def _refuse_rows_without_key(self, records: RecordReader, counts: SectionCounts) -> None:
        table = records.table
        if missing := await self._source.count_without_key(table):
            counts.read += missing
            self._refuse(records, records.problem("NULL", table.key, f"{missing} rows have no key"), rows=missing)

    async def _check_keys_are_unique(self, table: SourceTable) -> None:
        if duplicates := await self._source.list_duplicates(table, table.key):
            named = ", ".join(map(str, duplicates[:3]))
            raise InvalidMapping(f"{table.name}.{table.key}: is no key, several rows have {named}")

    async def _writer(self, section: Section, records: RecordReader) -> Writer:
        if section is not Section.CREDITS:
            return _WRITERS[section](self._target)
        columns = records.sources["user"][1]
        found = await self._source.list_duplicates(records.table, columns[0]) if len(columns) == 1 else ()
        if len(found) == MOST_DUPLICATES:
            raise InvalidMapping(f"{records.table.name}.{columns[0]}: {len(found)} users or more have several balances")
        return CreditWriter(self._target, duplicates=[reference(each) for each in found])

    def _read(self, rows: Sequence[dict[str, Any]], records: RecordReader, counts: SectionCounts) -> list[Record]:
        counts.read += len(rows)
        batch = []
        for row in rows:
            record, problems = records.read(row)
            if record is not None:
                batch.append(record)
            elif problems:
                self._refuse(records, *problems)
        return batch

    def _refuse(self, records: RecordReader, *problems: Problem, rows: int = 1) -> None:
        self.report.sections[records.section].refused += rows
        for problem in problems:
            self._observer.problem(problem)
        if self._is_strict:
            raise RowsRefused(f"{problems[0].table} row {problems[0].row}: {problems[0].reason}")

    async def _write(self, writer: Writer, batch: Sequence[Record], records: RecordReader) -> None:
        counts = self.report.sections[records.section]
        results, refused = [], []
        async with self._transaction() as connection:
            await writer.begin_batch(connection, batch)
            for record in batch:
                try:
                    async with connection.begin_nested():
                        results.append(await writer.write(connection, record))
                except (Unfit, *_REFUSALS) as error:
                    refused.append(_problem(records, record, error))
                    if self._is_strict:
                        self._refuse(records, refused[0])
        counts.imported += results.count(Result.IMPORTED)
        counts.present += results.count(Result.PRESENT)
        for problem in refused:
            self._refuse(records, problem)

    async def _write_usage(self, writer: UsageWriter, batch: Sequence[Record], records: RecordReader) -> None:
        counts, lines = self.report.sections[records.section], []
        async with self._transaction() as connection:
            await writer.begin_batch(connection, batch)
            for record in batch:
                try:
                    lines.append((record, await writer.line(connection, record)))
                except Unfit as unfit:
                    self._refuse(records, _problem(records, record, unfit))
            new = len(lines) if self._target.is_dry else await self._store(connection, writer, lines, records)
        counts.imported += new
        counts.present += len(lines) - new

    async def _store(
        self,
        connection: AsyncConnection,
        writer: UsageWriter,
        lines: list[tuple[Record, bytes]],
        records: RecordReader,
    ) -> int:
        """All at once; where PostgreSQL refuses that, one by one, without those that it refuses."""
        try:
            async with connection.begin_nested():
                return await writer.write(connection, lines) if lines else 0
        except MalformedLines:
            new = 0
        for each in tuple(lines):
            try:
                async with connection.begin_nested():
                    new += await writer.write(connection, [each])
            except MalformedLines as error:
                lines.remove(each)
                self._refuse(records, _problem(records, each[0], error))
        return new

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        if self._enclosing is not None:
            yield self._enclosing
            return
        async with self._database.transaction() as connection:
            await lift_timeouts(connection)
            await connection.execute(_LOCK, {"key": ADVISORY_LOCK})
            yield connection


_WRITERS: dict[Section, Callable[[Target], Writer]] = {
    Section.PRODUCTS: ProductWriter,
    Section.PLANS: PlanWriter,
    Section.USERS: UserWriter,
    Section.SUBSCRIPTIONS: SubscriptionWriter,
    Section.KEYS: KeyWriter,
    Section.PAYMENTS: PaymentWriter,
}


def _problem(records: RecordReader, record: Record, error: Exception) -> Problem:
    """What the ledger says, in terms of the source."""
    # Not all of SQLAlchemy's message, which has the statement's values, such as hashes.
    name, reason = None, " ".join(str(getattr(error, "orig", None) or error).split())
    if isinstance(error, UnfitField):
        name = error.field
    elif isinstance(error, AlreadyExists):
        name, reason = _TAKEN.get(error.constraint, (None, reason))
    column = records.column_of(name) if name is not None else None
    return records.problem(record.key, column or name, reason)
