"""Imports from other systems, so that the console shows how far one is, and cancels it."""

from __future__ import annotations

from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None
serves_from = "0020"
is_needed = True

_COMMENTS = {
    "TABLE imports": "Imports from other systems, with how far each is",
    "COLUMN imports.source": "The name that the mapping gives it",
    "COLUMN imports.sections": (
        "In their order, each with its rows, and how many were read, imported, present and refused"
    ),
    "COLUMN imports.is_cancel_requested": "The process that imports looks after each batch",
}


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE imports (
            id UUID NOT NULL,
            source TEXT NOT NULL,
            state TEXT DEFAULT 'running' NOT NULL,
            sections JSONB DEFAULT '[]' NOT NULL,
            is_cancel_requested BOOLEAN DEFAULT false NOT NULL,
            ended_at TIMESTAMPTZ,
            created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
            updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
            CONSTRAINT pk_imports PRIMARY KEY (id),
            CONSTRAINT ck_imports_state CHECK (state IN ('running', 'done', 'canceled', 'failed')),
            CONSTRAINT ck_imports_ended_at_a_time CHECK ((state = 'running') = (ended_at IS NULL))
        )
        """
    )
    for what, comment in _COMMENTS.items():
        op.execute(f"COMMENT ON {what} IS '{comment}'")
    op.execute("CREATE INDEX ix_imports_created_at_id ON imports (created_at, id)")


def downgrade() -> None:
    op.execute("DROP TABLE imports")
