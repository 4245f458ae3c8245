"""Keeps journal entries that PostgreSQL refused, for what was dropped from the journal would be gone."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
serves_from = "0002"
is_needed = True

STATEMENTS = (
    """
    CREATE TABLE journal_poison (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        partition INTEGER NOT NULL,
        entry_id TEXT NOT NULL,
        line BYTEA NOT NULL,
        reason TEXT NOT NULL,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_journal_poison PRIMARY KEY (id),
        CONSTRAINT uq_journal_poison_partition_entry_id UNIQUE (partition, entry_id),
        CONSTRAINT ck_journal_poison_partition_not_negative CHECK (partition >= 0)
    )
    """,
    """
    COMMENT ON TABLE journal_poison IS
        'Journal entries that PostgreSQL refused: they charged nobody, and stand nowhere else'
    """,
    "COMMENT ON COLUMN journal_poison.entry_id IS 'Its id in the stream of the partition'",
    "COMMENT ON COLUMN journal_poison.line IS 'As it came, which may not be text'",
    "COMMENT ON COLUMN journal_poison.reason IS 'In the words of PostgreSQL'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    op.get_bind().exec_driver_sql("DROP TABLE journal_poison")
