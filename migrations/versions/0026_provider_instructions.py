"""Indexes of what a provider is to be told: suspended accounts, and subscriptions that are paused or billed twice."""

from __future__ import annotations

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None
serves_from = "0020"
is_needed = False

_INDEXES = {
    "ix_users_suspended": "users (id) WHERE status = 'suspended' AND deleted_at IS NULL",
    "ix_subscriptions_marked": """subscriptions (provider)
        WHERE metadata ? 'payments_paused' OR metadata ? 'paused_here' OR metadata @> '{"is_billed": true}'""",
}


def upgrade() -> None:
    for name, definition in _INDEXES.items():
        op.get_bind().exec_driver_sql(f"CREATE INDEX {name} ON {definition}")


def downgrade() -> None:
    for name in _INDEXES:
        op.get_bind().exec_driver_sql(f"DROP INDEX {name}")
