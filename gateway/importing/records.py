"""Rows of the source as the fields of a section, or the reasons why they are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

from gateway.importing import values
from gateway.importing.mapping import FieldSource, InvalidMapping, TableMapping
from gateway.importing.sections import SECTIONS, Section
from gateway.importing.source import SourceTable
from gateway.importing.values import Unfit

# Of all ids that are made of a source's name and keys.
_NAMESPACE = UUID("6f6e6f2e-1d5c-5b7a-9a53-7d1f0c1be9d0")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row, or a field of it, was not imported."""

    section: Section
    table: str
    row: str
    column: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """A row that fits: `key` is the source's, `id` the one here; `fields` are converted, NULL ones left out."""

    key: str
    id: UUID
    fields: Mapping[str, Any]

    def only(self, *names: str) -> dict[str, Any]:
        """Those of these fields that the row has."""
        return {name: self.fields[name] for name in names if name in self.fields}


@dataclass(frozen=True, slots=True)
class RecordReader:
    """Reads the rows of one table; `sources` are the columns of each field that the table has."""

    section: Section
    table: SourceTable
    source: str
    sources: Mapping[str, tuple[FieldSource, tuple[str, ...]]] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for _, names in self.sources.values() for name in names))

    def id_of(self, section: Section, key: str) -> UUID:
        """The id here of a row that the source knows by this key."""
        return id_of(self.source, section, key)

    def read(self, row: Mapping[str, Any]) -> tuple[Record | None, list[Problem]]:
        """The record and why fields of it are left out, or no record and all reasons."""
        try:
            key = values.reference(row[self.table.key])
        except Unfit as unfit:
            return None, [self.problem(values.shown(row[self.table.key]), self.table.key, str(unfit))]
        fields, problems = {}, []
        for name, (source, columns) in self.sources.items():
            try:
                found = _value(source, [row[column] for column in columns])
                if found is not None:
                    fields[name] = SECTIONS[self.section][name].convert(found)
            except Unfit as unfit:
                problems.append(self.problem(key, ", ".join(columns) or name, str(unfit)))
        problems += [
            self.problem(key, ", ".join(self.sources[name][1]) or name, "is required, and missing")
            for name, target in SECTIONS[self.section].items()
            if target.is_required and name not in fields and not any(each.row == key for each in problems)
        ]
        return (None, problems) if problems else (Record(key, self.id_of(self.section, key), fields), [])

    def problem(self, key: str, column: str | None, reason: str) -> Problem:
        return Problem(self.section, self.table.name, key, column, reason)

    def column_of(self, name: str) -> str | None:
        """The columns that a field comes from."""
        return ", ".join(self.sources[name][1]) or None if name in self.sources else None


def id_of(source: str, section: Section, key: str) -> UUID:
    return uuid5(_NAMESPACE, f"{source}/{section}/{key}")


def reader(section: Section, mapping: TableMapping, *, table: SourceTable, source: str) -> RecordReader:
    """Raises InvalidMapping for a column that the table does not have, unless it is optional."""
    sources = {}
    for name, wanted in mapping.fields.items():
        columns = _existing(wanted, table)
        if columns is not None:
            sources[name] = (wanted, columns)
        elif not wanted.optional:
            named = ", ".join(wanted.column or wanted.columns)
            has = ", ".join(table.columns)
            raise InvalidMapping(f"{section}.fields.{name}: {mapping.table} has no column {named}; it has {has}")
        elif SECTIONS[section][name].is_required:
            raise InvalidMapping(f"{section}.fields.{name}: is required, and {mapping.table} has no column for it")
    return RecordReader(section, table, source, sources)


def _existing(wanted: FieldSource, table: SourceTable) -> tuple[str, ...] | None:
    """The columns to read, none for a constant; None where the table lacks them."""
    if wanted.columns:
        return wanted.columns if set(wanted.columns) <= set(table.columns) else None
    if not wanted.column:
        return ()
    return next(((name,) for name in wanted.column if name in table.columns), None)


def _value(source: FieldSource, raw: Sequence[Any]) -> Any:
    """What the field's converter gets; None: nothing."""
    if source.columns:
        parts = [values.text(part).strip() for part in raw if part is not None]
        found: Any = source.join.join(part for part in parts if part) or None
    else:
        found = raw[0] if raw else source.value
    if isinstance(found, str) and not found.strip():
        found = None
    if found is not None and source.map:
        found = _translated(source.translations, found)
    if found is None:
        found = source.default
    return None if found is None else _computed(source, found)


def _translated(translations: Mapping[str, Any], found: Any) -> Any:
    written = str(found).strip().lower()
    if written in translations:
        return translations[written]
    if "*" in translations:
        return translations["*"]
    raise Unfit(f"is not in `map`: {values.shown(found)}")


def _computed(source: FieldSource, found: Any) -> Any:
    if source.split is not None:
        return [part.strip() for part in values.text(found).split(source.split) if part.strip()]
    if source.divide_by is not None:
        return values.decimal(found) / source.divide_by
    if source.multiply_by is not None:
        return values.decimal(found) * source.multiply_by
    return found


Report = Callable[[Problem], None]
