"""How a call is written down: one line of PostgreSQL COPY text, its head fixed at admission and its tail at settlement.

The head lies in the hold while the call runs, so that a call whose gateway died still has its row. The settlement
script joins head and tail into the journal entry and puts behind them what only it knows, the balance that the call
left; the usage writer hands the lines to COPY as they are.

A line is tab-separated, ends in a newline, writes NULL as `\\N` and escapes backslash, tab, newline and carriage return
(https://www.postgresql.org/docs/current/sql-copy.html, "Text Format"). `created_at` is microseconds since the epoch.
"""

from __future__ import annotations

HEAD_COLUMNS = (
    "request_id",
    "created_at",
    "user_id",
    "api_key_id",
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
)

TAIL_COLUMNS = (
    "outcome",
    "status_code",
    "error_code",
    "credits_charged",
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
)

# The credits that the account may spend right after this settlement, in the hot copy where calls are admitted: what
# calls still under way hold is taken off. It is the X-Credits-Remaining of an answer that comes after its settlement.
# Unknown where the account was cold, or the call was settled by a gateway that Redis had lost or was away from.
BALANCE_AFTER = "balance_after"

COLUMNS = (*HEAD_COLUMNS, *TAIL_COLUMNS, BALANCE_AFTER)

NULL = "\\N"
_TABS_WITHOUT_BALANCE = len(HEAD_COLUMNS) + len(TAIL_COLUMNS) - 1
_ESCAPES = {ord("\\"): "\\\\", ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r", 0: ""}
_UNESCAPES = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}

Column = object  # written as its str(); None is NULL


def text(value: str | None) -> str:
    """Text that came from outside, escaped. NUL, which PostgreSQL text cannot hold, is dropped."""
    if value is None:
        return NULL
    if value.isalnum():
        return value
    return value.translate(_ESCAPES)


def head(*columns: Column) -> str:
    """The columns of HEAD_COLUMNS, in order, already escaped by `text` where they came from outside."""
    return _join(columns)


def part(*columns: Column) -> str:
    """Some columns side by side, made once and given to `head` or `tail` as if they were one."""
    return _join(columns)


def tail(*columns: Column) -> str:
    """The columns of TAIL_COLUMNS, in order, already escaped by `text` where they came from outside."""
    return _join(columns)


def line(record: bytes) -> bytes:
    """A journal entry's record as a line of COLUMNS: without a balance, if the script knew none."""
    return record + (b"\t\\N\n" if record.count(b"\t") == _TABS_WITHOUT_BALANCE else b"\n")


def parse(line: str) -> dict[str, str | None]:
    """A line read back, column by column, unescaped."""
    values = line.removesuffix("\n").split("\t")
    return dict(zip(COLUMNS, map(_unescape, values), strict=True))


def _join(columns: tuple[Column, ...]) -> str:
    return "\t".join([NULL if column is None else str(column) for column in columns])


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
