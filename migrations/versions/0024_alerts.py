"""When customers want to be told of their credits. The release before tells them at 80 and 100 %, as it did."""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None
serves_from = "0020"
is_needed = True

_COLUMNS = {
    "alert_percents": ("SMALLINT[]", "The used percentages of a period to tell of, rising; NULL: 80 and 100"),
    "alert_balance": (
        "BIGINT CONSTRAINT ck_user_credits_alert_balance_positive CHECK (alert_balance > 0)",
        "The account is told when a charge takes the balance below; NULL: never",
    ),
    "balance_alerted": ("BOOLEAN DEFAULT false NOT NULL", "Told, and the balance has been below alert_balance since"),
}


def upgrade() -> None:
    for name, (kind, comment) in _COLUMNS.items():
        op.get_bind().exec_driver_sql(f"ALTER TABLE user_credits ADD COLUMN {name} {kind}")
        op.get_bind().exec_driver_sql(f"COMMENT ON COLUMN user_credits.{name} IS '{comment}'")


def downgrade() -> None:
    for name in _COLUMNS:
        op.drop_column("user_credits", name)
