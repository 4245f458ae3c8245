"""How a call is recorded: as a line of PostgreSQL COPY text, with a prefix of its admission and a suffix of its end.

The hold keeps the prefix while the call runs, so a call whose gateway died still has its row. The settlement script
joins both halves and appends the balance; the usage writer hands the line to COPY.

Prefix and suffix have a version each, since two releases may write them: one admits a call, another sweeps it. The
field of a journal entry names both: `r1.2` is a prefix of version 1 with a suffix of version 2. Release 0.1.0 wrote `r`
for version 1 of both. To add a column, add a version to SUFFIXES and a parameter to `suffix`. A version never changes
once a release has written it (docs/decisions/0019).

A line is tab-separated, ends in a newline, writes NULL as `\\N` and escapes backslash, tab, newline and carriage return
(https://www.postgresql.org/docs/current/sql-copy.html, "Text Format"). `created_at` is microseconds since the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from policies.model import Outcome

# Every version of a prefix and of a suffix begins with these, so that releases can load each other's accounts.
IDENTITY_COLUMNS = ("request_id", "created_at", "user_id", "api_key_id")
CHARGE_COLUMNS = ("outcome", "status_code", "error_code", "credits_charged")
USAGE_COLUMNS = (
    "model",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "usage_source",
)

PREFIXES: dict[int, tuple[str, ...]] = {
    1: (
        *IDENTITY_COLUMNS,
        "subscription_id",
        "plan_id",
        "endpoint",
        "method",
        "path",
        "usage_type",
        "product_count",
        "language_code",
        "category",
        "batch_id",
        "client_ip",
        "client_request_id",
    ),
}

SUFFIXES: dict[int, tuple[str, ...]] = {
    1: (
        *CHARGE_COLUMNS,
        "tokens_used",
        "cost_usd",
        "request_bytes",
        "response_bytes",
        "file_size_bytes",
        "response_time_ms",
        "upstream_time_ms",
        "metadata",
        "file_name",
        "file_sha256",
        "content_type",
    ),
    2: (
        *CHARGE_COLUMNS,
        "tokens_used",
        "cost_usd",
        *USAGE_COLUMNS,
        "request_bytes",
        "response_bytes",
        "file_size_bytes",
        "response_time_ms",
        "upstream_time_ms",
        "metadata",
        "file_name",
        "file_sha256",
        "content_type",
    ),
}

# The credits that the account may spend right after this settlement by the balance in Redis, which is without what
# calls under way hold. It is the X-Credits-Remaining of a response sent after its settlement. NULL where the account
# was not loaded, or Redis had lost the call.
BALANCE_AFTER = "balance_after"


class RecordVersion(NamedTuple):
    """Which versions the halves of a record are of; a newer release may have written either."""

    prefix: int
    suffix: int

    @property
    def is_known(self) -> bool:
        return self.prefix in PREFIXES and self.suffix in SUFFIXES

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the whole line. Raises KeyError for an unknown version."""
        return (*PREFIXES[self.prefix], *SUFFIXES[self.suffix], BALANCE_AFTER)

    @property
    def credits_column(self) -> int | None:
        """Where the charge stands, also for an unknown suffix; None for an unknown prefix."""
        prefix = PREFIXES.get(self.prefix)
        return None if prefix is None else len(prefix) + CHARGE_COLUMNS.index("credits_charged")


CURRENT = RecordVersion(max(PREFIXES), max(SUFFIXES))
PREFIX_COLUMNS, SUFFIX_COLUMNS, COLUMNS = PREFIXES[CURRENT.prefix], SUFFIXES[CURRENT.suffix], CURRENT.columns

UNVERSIONED_FIELD = b"r"
_FIELD = re.compile(rb"r([1-9]\d{0,3})\.([1-9]\d{0,3})")
_MARK = re.compile(r"/([1-9]\d{0,3})\t")

NULL = "\\N"
_TABS_WITHOUT_BALANCE = len(PREFIXES[1]) + len(SUFFIXES[1]) - 1
_ESCAPES = {ord("\\"): "\\\\", ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r", 0: ""}
_UNESCAPES = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}

Column = object  # written as its str(); None is NULL


def text(value: str | None) -> str:
    """Text from outside, escaped. NUL, which PostgreSQL text cannot hold, is dropped; half a character becomes `?`."""
    if value is None:
        return NULL
    if not value.isascii():
        value = value.encode("utf-8", "replace").decode()
    elif value.isprintable() and "\\" not in value:
        return value
    return value.translate(_ESCAPES)


def mark(version: int) -> str:
    """What a prefix begins with to name its version. Version 1 has none, so that release 0.1.0 reads it in holds."""
    return "" if version == 1 else f"/{version}\t"


PREFIX_MARK = mark(CURRENT.prefix)


def prefix(
    *,
    request_id: str,
    created_at: int,
    caller: str,
    route: str,
    product_count: int,
    labels: str,
    client_ip: str,
    client_request_id: str | None,
) -> str:
    """What a record says from the admission on. `caller`, `route` and `labels` are columns joined beforehand.

    `client_ip` "" is no address.
    """
    return (
        f"{PREFIX_MARK}{request_id}\t{created_at}\t{caller}\t{route}\t{product_count}\t{labels}\t"
        f"{client_ip or NULL}\t{NULL if client_request_id is None else client_request_id}"
    )


def caller_columns(*, user_id: Column, api_key_id: Column, subscription_id: Column, plan_id: str | None) -> str:
    return _join((user_id, api_key_id, subscription_id, plan_id))


def route_columns(*, endpoint: str, method: str, path: str, usage_type: str) -> str:
    return _join((endpoint, method, path, usage_type))


def label_columns(*, language_code: str, category: str, batch_id: str) -> str:
    return _join((language_code, category, batch_id))


def suffix(
    *,
    outcome: Outcome,
    status_code: int | None,
    error_code: str | None,
    credits_charged: int,
    tokens_used: Column,
    cost_usd: Column,
    usage: str,
    request_bytes: int,
    response_bytes: int,
    file_size_bytes: int | None,
    response_time_ms: int,
    upstream_time_ms: int | None,
    metadata: str | None,
    file: str,
) -> str:
    """What a record says from the settlement on. `usage` and `file` are columns joined beforehand."""
    return (
        f"{outcome!s}\t{NULL if status_code is None else status_code}\t{error_code or NULL}\t{credits_charged}\t"
        f"{NULL if tokens_used is None else tokens_used}\t{NULL if cost_usd is None else cost_usd}\t{usage}\t"
        f"{request_bytes}\t{response_bytes}\t{NULL if file_size_bytes is None else file_size_bytes}\t"
        f"{response_time_ms}\t{NULL if upstream_time_ms is None else upstream_time_ms}\t{metadata or NULL}\t{file}"
    )


def usage_columns(
    *,
    model: str | None,
    input_tokens: int | None,
    cached_input_tokens: int | None,
    cache_write_tokens: int | None,
    output_tokens: int | None,
    reasoning_tokens: int | None,
    usage_source: str,
) -> str:
    return (
        f"{model or NULL}\t{NULL if input_tokens is None else input_tokens}\t"
        f"{NULL if cached_input_tokens is None else cached_input_tokens}\t"
        f"{NULL if cache_write_tokens is None else cache_write_tokens}\t"
        f"{NULL if output_tokens is None else output_tokens}\t"
        f"{NULL if reasoning_tokens is None else reasoning_tokens}\t{usage_source}"
    )


def file_columns(*, file_name: str, file_sha256: str | None, content_type: str) -> str:
    return _join((file_name, file_sha256, content_type))


def abandoned_suffix(error_code: str | None = None) -> str:
    """The suffix of a call that nobody settled: no charge, nothing known."""
    return suffix_of({"outcome": Outcome.ABANDONED, "error_code": error_code, "credits_charged": 0})


def prefix_of(columns: Mapping[str, Column]) -> str:
    """A prefix with these columns, escaped already, and NULL for the others. Raises ValueError for unknown columns."""
    return PREFIX_MARK + _named(columns, PREFIX_COLUMNS)


def suffix_of(columns: Mapping[str, Column]) -> str:
    """The same for a suffix."""
    return _named(columns, SUFFIX_COLUMNS)


def join(prefix: str, suffix: str) -> str:
    """A whole record of the current version, whose balance is unknown."""
    return f"{prefix.removeprefix(PREFIX_MARK)}\t{suffix}\t{NULL}"


def field_of(version: RecordVersion) -> str:
    """The field that a journal entry has its record in."""
    return f"r{version.prefix}.{version.suffix}"


@lru_cache(maxsize=64)
def parse_field(field: bytes) -> RecordVersion | None:
    """None if no release has written such a field."""
    if field == UNVERSIONED_FIELD:
        return RecordVersion(1, 1)
    match = _FIELD.fullmatch(field)
    return None if match is None else RecordVersion(int(match[1]), int(match[2]))


def copy_line(field: bytes, record: bytes) -> bytes:
    """The record of a journal entry as a line for COPY. Release 0.1.0 left an unknown balance out."""
    if field == UNVERSIONED_FIELD and record.count(b"\t") == _TABS_WITHOUT_BALANCE:
        return record + b"\t\\N\n"
    return record + b"\n"


def identity(prefix: str) -> Mapping[str, str]:
    """The IDENTITY_COLUMNS of a prefix of any version. Raises ValueError if it has fewer columns."""
    columns = _MARK.sub("", prefix, count=1).split("\t", len(IDENTITY_COLUMNS))
    return dict(zip(IDENTITY_COLUMNS, columns[: len(IDENTITY_COLUMNS)], strict=True))


def upgrade_prefix(prefix: str) -> str:
    """A prefix of any known version, rewritten in the current one. Raises KeyError for an unknown version."""
    found = _MARK.match(prefix)
    version = 1 if found is None else int(found[1])
    if version == CURRENT.prefix:
        return prefix
    return PREFIX_MARK + _rewrite(prefix.removeprefix(mark(version)), PREFIXES[version], PREFIX_COLUMNS)


def upgrade_suffix(suffix: str, version: int) -> str:
    """A suffix of this version, rewritten in the current one. Raises KeyError for an unknown version."""
    return suffix if version == CURRENT.suffix else _rewrite(suffix, SUFFIXES[version], SUFFIX_COLUMNS)


def parse_line(line: str, version: RecordVersion = CURRENT) -> dict[str, str | None]:
    """A line read back, column by column, unescaped. Raises ValueError if it does not have the version's columns."""
    values = line.removesuffix("\n").split("\t")
    return dict(zip(version.columns, map(_unescape, values), strict=True))


def _join(columns: tuple[Column, ...]) -> str:
    return "\t".join([NULL if column is None else str(column) for column in columns])


def _named(columns: Mapping[str, Column], order: tuple[str, ...]) -> str:
    if unknown := columns.keys() - set(order):
        raise ValueError(f"no column of this version: {', '.join(sorted(unknown))}")
    return _join(tuple(columns.get(name) for name in order))


def _rewrite(part: str, written: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    """Columns by name: those that are not wanted any more are dropped, missing ones are NULL."""
    known = dict(zip(written, part.split("\t"), strict=True))
    return "\t".join([known.get(name, NULL) for name in wanted])


def _unescape(value: str) -> str | None:
    if value == NULL:
        return None
    if "\\" not in value:
        return value
    plain, position = [], 0
    while position < len(value):
        pair = value[position : position + 2]
        plain.append(_UNESCAPES.get(pair, value[position]))
        position += 2 if pair in _UNESCAPES else 1
    return "".join(plain)
