"""The first schema, in SQL beside this file: it reads as the design, which generated `op` calls do not."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
serves_from = "0001"
is_needed = True

TABLES = (
    "journal_offsets, outbox, audit_log, refused_requests, analysis_history, usage_tracking, "
    "credit_ledger, credit_grants, user_credits, "
    "webhook_events, payment_transactions, invoices, provider_customers, subscriptions, "
    "catalogue, plan_permissions, permissions, pricing_tiers, subscription_plans, products, "
    "admin_tokens, api_keys, users"
)


def upgrade() -> None:
    script = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    # Past SQLAlchemy, whose prepared statements hold one statement each.
    op.get_bind().connection.run_async(lambda driver: driver.execute(script))


def downgrade() -> None:
    op.get_bind().exec_driver_sql(f"DROP TABLE {TABLES}")
    op.get_bind().exec_driver_sql("DROP FUNCTION refuse_to_rewrite()")
