"""What a plan gives while a payment is due, and the plan that holds once a subscription has ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None
serves_from = "0012"
is_needed = True

_TABLE = "subscription_plans"


def upgrade() -> None:
    past_due = sa.Column(
        "past_due",
        sa.Text(),
        nullable=False,
        server_default=sa.text("'purchased_only'"),
        comment="What it gives from a failed renewal to its payment: everything, no credits of the period, or nothing",
    )
    fallback = sa.Column(
        "fallback_plan", sa.Text(), comment="The plan that holds once a subscription has ended; NULL: none"
    )
    op.add_column(_TABLE, past_due)
    op.add_column(_TABLE, fallback)
    op.create_check_constraint("past_due", _TABLE, "past_due IN ('serve', 'purchased_only', 'stop')")
    op.create_foreign_key(
        "fk_subscription_plans_fallback_plan",
        _TABLE,
        _TABLE,
        ["fallback_plan"],
        ["id"],
        ondelete="SET NULL",
        deferrable=True,
        initially="DEFERRED",
    )


def downgrade() -> None:
    op.drop_constraint("fk_subscription_plans_fallback_plan", _TABLE, type_="foreignkey")
    op.drop_constraint("past_due", _TABLE, type_="check")
    op.drop_column(_TABLE, "fallback_plan")
    op.drop_column(_TABLE, "past_due")
