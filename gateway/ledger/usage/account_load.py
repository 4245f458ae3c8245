"""Reads what Redis needs to load an account, in one statement and so in one snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from policies.access.limits import STEP_MS

_CALLS = """
    (SELECT coalesce(string_agg(bucket || ' ' || calls, ' '), '') FROM (
         SELECT floor((extract(epoch FROM created_at) * 1000 + :skew_ms) / {step_ms})::bigint AS bucket,
                count(*) AS calls
           FROM usage_tracking
          WHERE user_id = :user_id
            AND created_at >= timestamptz 'epoch' + (:now_ms - 2 * :skew_ms - 61 * {step_ms}) * interval '1 millisecond'
          GROUP BY 1) counted)
"""
LAST_ID = "coalesce((SELECT last_id FROM journal_offsets WHERE partition = :partition), '0-0')"
RECORDED = """
           (SELECT coalesce(jsonb_object_agg(t.request_id, t.outcome = 'abandoned' AND t.credits_charged = 0), '{}')
              FROM usage_tracking t
              JOIN unnest(CAST(:request_ids AS uuid[]), CAST(:moments AS bigint[])) AS a (request_id, moment)
                ON t.request_id = a.request_id
               AND t.created_at = timestamptz 'epoch' + a.moment * interval '1 microsecond')"""

_STORED_ACCOUNT = text(f"""
    SELECT u.version AS account_version, c.credit_seq, c.current_credits,
           (SELECT version FROM catalogue) AS catalogue_version,
           {LAST_ID} AS last_id,
           {_CALLS.format(step_ms=STEP_MS[0])} AS in_minute,
           {_CALLS.format(step_ms=STEP_MS[1])} AS in_hour,
           {_CALLS.format(step_ms=STEP_MS[2])} AS in_day,
           (SELECT coalesce(string_agg((o.payload ->> 'credit_seq') || ' ' || (o.payload ->> 'amount'), ' '), '')
              FROM outbox o WHERE o.user_id = :user_id AND o.kind = 'credits') AS unpublished,
           {RECORDED} AS recorded
      FROM users u JOIN user_credits c ON c.user_id = u.id
     WHERE u.id = :user_id
""")  # noqa: S608 - made of constants


# The lock needs the server that takes writes: a standby may be behind Redis and yet have lost nothing.
_VERSIONS = text("""
    SELECT u.version AS account, c.credit_seq FROM users u JOIN user_credits c ON c.user_id = u.id
     WHERE u.id = :user_id FOR SHARE
""")


class StoredVersions(NamedTuple):
    """0 for an account that PostgreSQL does not have."""

    account: int = 0
    credit_seq: int = 0


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """An account as PostgreSQL has it.

    PostgreSQL has the journal of its partition up to `last_id`. `calls` are those of the last minute, hour and day as
    "bucket count bucket count ..". `recorded` are those of the given requests that have a row; True if the row says
    abandoned at no charge, and so may still be corrected. `unpublished` are credit changes that Redis has still to be
    told of, as "credit_seq amount credit_seq amount ..".
    """

    account_version: int
    credit_seq: int
    current_credits: int
    catalogue_version: int
    last_id: str
    calls: tuple[str, str, str]
    recorded: Mapping[UUID, bool]
    unpublished: str = ""


async def lock_versions(connection: AsyncConnection, user_id: UUID) -> StoredVersions:
    """The account's version and the number of its last credit change, as the server that takes writes has them."""
    row = (await connection.execute(_VERSIONS, {"user_id": user_id})).one_or_none()
    return StoredVersions() if row is None else StoredVersions(*row)


async def read(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    partition: int,
    requests: Sequence[tuple[UUID, int]],
    now_ms: int,
    skew_ms: int,
) -> StoredAccount | None:
    """None for an unknown user. `requests` are pairs of an id and the microseconds of its admission.

    Counts each call as if it came `skew_ms` later. `now_ms`, milliseconds since the epoch, may be late by as much.
    """
    parameters = {
        "user_id": user_id,
        "partition": partition,
        "request_ids": [request[0] for request in requests],
        "moments": [request[1] for request in requests],
        "now_ms": now_ms,
        "skew_ms": skew_ms,
    }
    row = (await connection.execute(_STORED_ACCOUNT, parameters)).one_or_none()
    if row is None:
        return None
    return StoredAccount(
        row.account_version,
        row.credit_seq,
        row.current_credits,
        row.catalogue_version,
        row.last_id,
        (row.in_minute, row.in_hour, row.in_day),
        {UUID(request_id): is_open for request_id, is_open in row.recorded.items()},
        row.unpublished,
    )
