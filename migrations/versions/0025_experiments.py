"""Experiments: which plans are offered to whom, while they run."""

from __future__ import annotations

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None
serves_from = "0020"
is_needed = True

_TABLE = """
    CREATE TABLE experiments (
        id UUID NOT NULL,
        name TEXT NOT NULL,
        salt TEXT NOT NULL,
        variants JSONB NOT NULL,
        status TEXT DEFAULT 'draft' NOT NULL,
        started_at TIMESTAMPTZ,
        stopped_at TIMESTAMPTZ,
        winner TEXT,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_experiments PRIMARY KEY (id),
        CONSTRAINT uq_experiments_name UNIQUE (name),
        CONSTRAINT ck_experiments_status CHECK (status IN ('draft', 'running', 'stopped')),
        CONSTRAINT ck_experiments_started_unless_draft CHECK ((status = 'draft') = (started_at IS NULL)),
        CONSTRAINT ck_experiments_stopped_at_its_end CHECK ((status = 'stopped') = (stopped_at IS NOT NULL)),
        CONSTRAINT ck_experiments_variants_are_a_list CHECK (jsonb_typeof(variants) = 'array')
    )
"""
_COMMENTS = {
    "TABLE experiments": "Which plans are offered to whom; accounts are shared out by a hash, so none is stored",
    "COLUMN experiments.salt": "Hashed with the id of an account; another salt shares accounts out otherwise",
    "COLUMN experiments.variants": "Each with name, weight and plans, the control first",
    "COLUMN experiments.winner": "The variant whose plans stayed on sale; NULL: those of all",
}


def upgrade() -> None:
    execute = op.get_bind().exec_driver_sql
    execute(_TABLE)
    for what, comment in _COMMENTS.items():
        execute(f"COMMENT ON {what} IS '{comment}'")


def downgrade() -> None:
    op.drop_table("experiments")
