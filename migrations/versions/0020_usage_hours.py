"""Sums of usage by hour. Triggers keep them, so they are right whichever release writes the rows.

Rows wait while those that are there are summed, a minute for some ten million; calls do not.
"""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None
serves_from = "0016"
is_needed = True

_KEY = ("hour", "endpoint", "plan_id", "model", "usage_type", "outcome", "usage_source", "shard")
_SUMMED = (
    *("credits_charged", "product_count", "tokens_used", "input_tokens", "cached_input_tokens", "cache_write_tokens"),
    *("output_tokens", "reasoning_tokens", "cost_usd", "request_bytes", "response_bytes"),
)
_COUNTS = ("requests", "cost_unknown", "timed_requests")
_SUMS = ("requests", *_SUMMED, "cost_unknown", "response_time_ms", "timed_requests")

_CREATE = f"""
    CREATE TABLE usage_hours (
        hour TIMESTAMPTZ NOT NULL,
        endpoint TEXT NOT NULL,
        plan_id TEXT NOT NULL,
        model TEXT NOT NULL,
        usage_type TEXT NOT NULL,
        outcome TEXT NOT NULL,
        usage_source TEXT NOT NULL,
        shard SMALLINT NOT NULL,
        {", ".join(f"{name} {'BIGINT' if name in _COUNTS else 'NUMERIC'} NOT NULL" for name in _SUMS)},
        CONSTRAINT pk_usage_hours PRIMARY KEY ({", ".join(_KEY)})
    ) WITH (fillfactor = 50)
"""

_COMMENTS = {
    "TABLE usage_hours": (
        "Sums of usage_tracking by hour, which its triggers keep; they stay when its months are dropped"
    ),
    "COLUMN usage_hours.hour": "The start of the hour in which the calls were admitted, in UTC",
    "COLUMN usage_hours.plan_id": "Empty where a call has none; so are the next ones",
    "COLUMN usage_hours.shard": "Of the connection that wrote, so that writers seldom wait for each other",
    "COLUMN usage_hours.cost_unknown": "Calls whose cost_usd is not known",
    "COLUMN usage_hours.timed_requests": "Calls whose response_time_ms is known",
}


def _add(rows: str) -> str:
    """Adds to the sums what `rows` have, each with the sign `n`. In the order of the key: so no two can deadlock."""
    added = ", ".join(f"{name} = s.{name} + excluded.{name}" for name in _SUMS)
    return f"""
        INSERT INTO usage_hours AS s ({", ".join((*_KEY, *_SUMS))})
        SELECT date_trunc('hour', created_at, 'UTC'), endpoint, coalesce(plan_id, ''), coalesce(model, ''), usage_type,
               outcome, coalesce(usage_source, ''), pg_backend_pid() % 8, sum(n),
               {", ".join(f"coalesce(sum(n * {name}), 0)" for name in _SUMMED)},
               coalesce(sum(n) FILTER (WHERE cost_usd IS NULL), 0), coalesce(sum(n * response_time_ms), 0),
               coalesce(sum(n) FILTER (WHERE response_time_ms IS NOT NULL), 0)
          FROM {rows} r
         GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7
        ON CONFLICT ({", ".join(_KEY)}) DO UPDATE SET {added}
    """  # noqa: S608 - made of constants


_TRIGGERS = {
    "add_usage_to_hours": (
        "AFTER INSERT ON usage_tracking REFERENCING NEW TABLE AS added",
        _add("(SELECT 1::bigint AS n, * FROM added)"),
    ),
    "change_usage_of_hours": (
        "AFTER UPDATE ON usage_tracking REFERENCING OLD TABLE AS before NEW TABLE AS after",
        _add("(SELECT -1::bigint AS n, * FROM before UNION ALL SELECT 1::bigint, * FROM after)"),
    ),
}


def upgrade() -> None:
    execute = op.get_bind().exec_driver_sql
    execute(_CREATE)
    for what, comment in _COMMENTS.items():
        execute(f"COMMENT ON {what} IS '{comment}'")
    for name, (event, statement) in _TRIGGERS.items():
        execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {statement}; RETURN NULL; END $$"
        )
        execute(f"CREATE TRIGGER {name} {event} FOR EACH STATEMENT EXECUTE FUNCTION {name}()")
    # The triggers' lock keeps other writers out until the end of the transaction.
    execute(_add("(SELECT 1::bigint AS n, * FROM usage_tracking)"))


def downgrade() -> None:
    for name in _TRIGGERS:
        op.get_bind().exec_driver_sql(f"DROP TRIGGER {name} ON usage_tracking")
        op.get_bind().exec_driver_sql(f"DROP FUNCTION {name}()")
    op.drop_table("usage_hours")
