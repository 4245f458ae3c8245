"""Postpaid plans: how far a balance may go below zero, at what price, and tiers of usage. All columns are new."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None
serves_from = "0014"
is_needed = True

_PLAN_COLUMNS = (
    ("tiers_mode", sa.Text(), "How tiers price usage; NULL: the pricing model says it, or there are none"),
    ("overage_credits", sa.BigInteger(), "How far below zero a balance may go; NULL: nothing is postpaid"),
    ("overage_price", sa.Numeric(), "Of a credit below zero; NULL: the plan bills all usage"),
    ("overage_stripe_price_id", sa.Text(), "The metered price at Stripe that bills them"),
)
_PLAN_CHECKS = {
    "tiers_mode": "tiers_mode IN ('graduated', 'volume')",
    "overage_price_has_credits": "overage_price IS NULL OR overage_credits IS NOT NULL",
    "overage_credits_positive": "overage_credits > 0",
    "overage_price_not_negative": "overage_price >= 0",
}
_PLANS = "subscription_plans"


_SOURCES = "source IN ('plan', 'trial', 'purchase', 'promo', 'admin'{})"
_OVERAGES = (
    """
    CREATE TABLE overages (
        id UUID NOT NULL,
        user_id UUID NOT NULL,
        subscription_id UUID NOT NULL,
        grant_id UUID NOT NULL,
        credits BIGINT NOT NULL,
        price NUMERIC NOT NULL,
        currency TEXT DEFAULT 'USD' NOT NULL,
        plan_name TEXT NOT NULL,
        period_start TIMESTAMPTZ NOT NULL,
        period_end TIMESTAMPTZ NOT NULL,
        invoiced_at TIMESTAMPTZ,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_overages PRIMARY KEY (id),
        CONSTRAINT ck_overages_currency_iso_4217 CHECK (currency ~ '^[A-Z]{3}$'),
        CONSTRAINT ck_overages_credits_positive CHECK (credits > 0),
        CONSTRAINT ck_overages_price_not_negative CHECK (price >= 0),
        CONSTRAINT uq_overages_grant_id UNIQUE (grant_id),
        CONSTRAINT fk_overages_user_id FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE RESTRICT,
        CONSTRAINT fk_overages_subscription_id
            FOREIGN KEY (subscription_id) REFERENCES subscriptions (id) ON DELETE RESTRICT,
        CONSTRAINT fk_overages_grant_id FOREIGN KEY (grant_id) REFERENCES credit_grants (id) ON DELETE RESTRICT
    )
    """,
    "CREATE INDEX ix_overages_open ON overages (subscription_id) WHERE invoiced_at IS NULL",
    "CREATE INDEX ix_overages_user_id ON overages (user_id)",
    "COMMENT ON COLUMN overages.price IS 'Of each credit'",
    """
    COMMENT ON COLUMN overages.invoiced_at IS
        'When it went on an own invoice, or was handed to the provider''s reports'
    """,
    """
    COMMENT ON TABLE overages IS
        'Usage below zero of postpaid plans: forgiven as credits by its grant, and billed as money'
    """,
    "ALTER TABLE user_credits ADD COLUMN overage_counted BIGINT DEFAULT 0 NOT NULL",
    """
    COMMENT ON COLUMN user_credits.overage_counted IS
        'The total_credits_used up to which usage below zero was billed, or was none'
    """,
    """
    ALTER TABLE user_credits
        ADD CONSTRAINT ck_user_credits_overage_counted_not_negative CHECK (overage_counted >= 0)
    """,
    "CREATE INDEX ix_user_credits_owing ON user_credits (subscription_id) WHERE current_credits < 0",
)
_OVERAGES_BEFORE = (
    "DROP INDEX ix_user_credits_owing",
    "ALTER TABLE user_credits DROP COLUMN overage_counted",
    "DROP TABLE overages",
    "UPDATE credit_grants SET source = 'admin' WHERE source = 'overage'",
)


def upgrade() -> None:
    for name, kind, comment in _PLAN_COLUMNS:
        op.add_column(_PLANS, sa.Column(name, kind, comment=comment))
    for name, condition in _PLAN_CHECKS.items():
        op.create_check_constraint(op.f(f"ck_{_PLANS}_{name}"), _PLANS, condition)
    for statement in _OVERAGES:
        op.get_bind().exec_driver_sql(statement)
    _allow_sources(", 'overage'")


def downgrade() -> None:
    """What is billed below zero and not invoiced yet is lost to the release before."""
    for statement in _OVERAGES_BEFORE:
        op.get_bind().exec_driver_sql(statement)
    _allow_sources("")
    for name in _PLAN_CHECKS:
        op.drop_constraint(op.f(f"ck_{_PLANS}_{name}"), _PLANS)
    for name, _, _ in reversed(_PLAN_COLUMNS):
        op.drop_column(_PLANS, name)


def _allow_sources(more: str) -> None:
    name = op.f("ck_credit_grants_source")
    op.drop_constraint(name, "credit_grants")
    op.create_check_constraint(name, "credit_grants", _SOURCES.format(more))
