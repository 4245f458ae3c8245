"""The most that a call of a plan is charged. NULL is no limit, so that the release before goes on writing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None
serves_from = "0013"
is_needed = True

_TABLE, _COLUMN = "subscription_plans", "max_credits_per_call"


def upgrade() -> None:
    comment = "The most that one call is charged; NULL: no limit"
    op.add_column(_TABLE, sa.Column(_COLUMN, sa.BigInteger(), comment=comment))
    op.create_check_constraint(op.f(f"ck_{_TABLE}_{_COLUMN}_positive"), _TABLE, f"{_COLUMN} > 0")


def downgrade() -> None:
    op.drop_column(_TABLE, _COLUMN)
