"""Rows of CSV (RFC 4180) that no spreadsheet takes for formulae."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from pydantic import BaseModel

# A spreadsheet evaluates a cell that begins with one of these (OWASP, "CSV Injection").
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"-\d+(\.\d+)?", re.ASCII)


class _Stream(Protocol):
    def write(self, text: str, /) -> object: ...


class CsvWriter:
    """Writes rows to a text stream. NULL becomes an empty cell, a map JSON, an instant ISO 8601."""

    def __init__(self, stream: _Stream, *, line_end: str = "\r\n") -> None:
        self._writer = csv.writer(stream, lineterminator=line_end)

    def write(self, row: Iterable[object]) -> None:
        self._writer.writerow([_cell(value) for value in row])


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and _is_formula(value) else value


def _is_formula(text: str) -> bool:
    return text.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(text)
