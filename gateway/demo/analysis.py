"""Analysis of a text or a table: figures that are computed from its bytes."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")  # noqa: RUF001 - people type the curly apostrophe
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", re.ASCII)
_DELIMITERS = ",;\t|"
_TOP_TERMS = 10
_SHORTEST_TERM = 3


class UnreadableError(Exception):
    """The bytes are not of their declared type; the message says why."""


@dataclass(frozen=True, slots=True)
class Term:
    term: str
    count: int


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. `minimum`, `maximum` and `mean` only where every cell that is not missing is a number."""

    name: str
    count: int
    missing: int
    distinct: int
    minimum: float | None
    maximum: float | None
    mean: float | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """Figures of one document; `rows` and `columns` only of a table."""

    kind: str
    bytes: int
    lines: int
    words: int
    top_terms: tuple[Term, ...]
    rows: int | None = None
    columns: tuple[Column, ...] = ()

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def analyze_text(content: bytes) -> Analysis:
    """Raises UnreadableError for bytes that are not UTF-8."""
    text = _decoded(content)
    words = [match[0].lower() for match in _WORD.finditer(text)]
    return Analysis("text", len(content), len(text.splitlines()), len(words), _top_terms(words))


def analyze_csv(content: bytes) -> Analysis:
    """The first row names the columns; the delimiter is the one of `,;|` and tab that it holds most often.

    Raises UnreadableError for bytes that are not UTF-8 and for a table without a heading.
    """
    text = _decoded(content)
    heading = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=heading.count)
    try:
        table = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except csv.Error as error:
        raise UnreadableError(f"The body is not CSV: {error}.") from error
    if not table:
        raise UnreadableError("The table has no heading.")
    names, rows = table[0], table[1:]
    plain = analyze_text(content)
    columns = tuple(_column(name.strip(), [_cell(row, index) for row in rows]) for index, name in enumerate(names))
    return Analysis("csv", plain.bytes, plain.lines, plain.words, plain.top_terms, len(rows), columns)


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"The body is not UTF-8 text: byte {error.start} is wrong.") from error


def _top_terms(words: Sequence[str]) -> tuple[Term, ...]:
    """Most frequent first; equals in alphabetical order, so that one text has one answer."""
    counts = Counter(word for word in words if len(word) >= _SHORTEST_TERM)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Term(term, count) for term, count in ranked[:_TOP_TERMS])


def _cell(row: Sequence[str], index: int) -> str:
    """A row that ends early lacks its last cells."""
    return row[index].strip() if index < len(row) else ""


def _column(name: str, cells: Sequence[str]) -> Column:
    present = [cell for cell in cells if cell]
    is_numeric = bool(present) and all(_NUMBER.fullmatch(cell) for cell in present)
    numbers = [float(cell) for cell in present] if is_numeric else []
    if not numbers or not all(map(math.isfinite, numbers)):
        return Column(name, len(present), len(cells) - len(present), len(set(present)), None, None, None)
    return Column(
        name=name,
        count=len(present),
        missing=len(cells) - len(present),
        distinct=len(set(present)),
        minimum=min(numbers),
        maximum=max(numbers),
        mean=_mean(numbers),
    )


def _mean(numbers: Sequence[float]) -> float:
    # Divided before summed: the sum of finite numbers may not be finite.
    return math.fsum(number / len(numbers) for number in numbers)
