"""Lists payments and invoices of a status from an index: of a rare one, the list by time would be read to its end."""

from __future__ import annotations

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None
serves_from = "0020"
is_needed = False

_TABLES = ("payment_transactions", "invoices")


def upgrade() -> None:
    for table in _TABLES:
        op.create_index(f"ix_{table}_status_created_at_id", table, ["status", "created_at", "id"])


def downgrade() -> None:
    for table in _TABLES:
        op.drop_index(f"ix_{table}_status_created_at_id", table)
