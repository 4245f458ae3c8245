"""Which hours of usage have changed, for a sink that copies them. Triggers mark them while one is at work."""

from __future__ import annotations

from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None
serves_from = "0020"
is_needed = True

_CREATE = (
    """
    CREATE TABLE usage_sinks (
        name TEXT NOT NULL,
        expires_at TIMESTAMPTZ NOT NULL,
        CONSTRAINT pk_usage_sinks PRIMARY KEY (name)
    )
    """,
    """
    CREATE TABLE usage_sink_changes (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        hour TIMESTAMPTZ NOT NULL,
        CONSTRAINT pk_usage_sink_changes PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX ix_usage_sink_changes_hour ON usage_sink_changes (hour)",
    "COMMENT ON TABLE usage_sinks IS 'The sink of usage, while a worker keeps it'",
    "COMMENT ON COLUMN usage_sinks.expires_at IS 'Changes are marked until then'",
    "COMMENT ON TABLE usage_sink_changes IS 'Hours whose rows of usage_tracking the sink lacks; triggers add them'",
    # A mark for each statement: writers that shared one would wait for each other.
    """
    CREATE FUNCTION mark_usage_hours() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF EXISTS (SELECT FROM usage_sinks WHERE expires_at > now()) THEN
            INSERT INTO usage_sink_changes (hour)
            SELECT DISTINCT date_trunc('hour', created_at, 'UTC') FROM changed;
        END IF;
        RETURN NULL;
    END $$
    """,
)


def upgrade() -> None:
    execute = op.get_bind().exec_driver_sql
    for statement in _CREATE:
        execute(statement)
    for event in ("insert", "update"):
        execute(
            f"CREATE TRIGGER mark_usage_hours_at_{event} AFTER {event} ON usage_tracking "
            "REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION mark_usage_hours()"
        )


def downgrade() -> None:
    for event in ("insert", "update"):
        op.get_bind().exec_driver_sql(f"DROP TRIGGER mark_usage_hours_at_{event} ON usage_tracking")
    op.get_bind().exec_driver_sql("DROP FUNCTION mark_usage_hours()")
    op.drop_table("usage_sink_changes")
    op.drop_table("usage_sinks")
