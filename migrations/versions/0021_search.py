"""Indexes of what operators search by: words of a user, the shown ends of a key, a provider's invoice number."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None
serves_from = "0020"
is_needed = False

_INDEXES = {
    "ix_users_words": """users USING gin (to_tsvector('simple',
        translate(lower(email), '@.+_-', '     ') || ' ' || coalesce(name, '') || ' ' || coalesce(company, '')))
        WHERE deleted_at IS NULL""",
    "ix_api_keys_shown_prefix": "api_keys (prefix text_pattern_ops)",
    "ix_api_keys_last4": "api_keys (last4)",
    "ix_invoices_provider_number": "invoices (provider_number) WHERE provider_number IS NOT NULL",
}


def upgrade() -> None:
    for name, definition in _INDEXES.items():
        op.get_bind().exec_driver_sql(f"CREATE INDEX {name} ON {definition}")


def downgrade() -> None:
    for name in _INDEXES:
        op.get_bind().exec_driver_sql(f"DROP INDEX {name}")
