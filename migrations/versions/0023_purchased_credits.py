"""Purchased credits that a refund or a dispute took back are purchased no more; the column counted them on.

The release before goes on counting them until it is replaced.
"""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None
serves_from = "0020"
is_needed = False

_COMMENT = "COMMENT ON COLUMN user_credits.total_credits_purchased IS '{}'"
_NOW, _BEFORE = (
    "Grants of source purchase, without what refunds and disputes took back",
    "The sum of all grants of source purchase",
)
# A dispute that was won made another grant, which the payment then named.
_CORRECT = """
    UPDATE user_credits c
       SET total_credits_purchased = greatest(0, total_credits_purchased {sign} taken.credits)
      FROM (SELECT l.user_id, sum(-l.amount) AS credits FROM credit_ledger l
             WHERE l.kind = 'clawback' AND l.grant_id IN (SELECT id FROM credit_grants WHERE source = 'purchase')
                OR l.kind = 'adjustment' AND l.amount > 0
                   AND l.grant_id IN (SELECT grant_id FROM payment_transactions WHERE transaction_type = 'credits')
             GROUP BY l.user_id) taken
     WHERE taken.user_id = c.user_id AND taken.credits > 0
"""


def upgrade() -> None:
    _run(sign="-", comment=_NOW)


def downgrade() -> None:
    _run(sign="+", comment=_BEFORE)


def _run(*, sign: str, comment: str) -> None:
    for statement in (_CORRECT.format(sign=sign), _COMMENT.format(comment)):
        op.get_bind().exec_driver_sql(statement)
