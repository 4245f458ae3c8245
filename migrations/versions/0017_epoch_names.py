"""The names of the epochs of Redis, and counts of what was published to it, to compare both stores by.

Both columns have defaults, so the release before goes on writing. It does not name the epochs that it begins: this one
then begins another.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None
serves_from = "0016"
is_needed = True

_TABLE = "meter_epochs"


def upgrade() -> None:
    op.add_column(
        _TABLE,
        sa.Column(
            "name",
            sa.Text(),
            server_default=sa.text("''"),
            nullable=False,
            comment="The epoch as Redis has it; a server of Redis that has another one is not used",
        ),
    )
    op.add_column(
        _TABLE,
        sa.Column(
            "published",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="How often changes were published from the outbox to the partition",
        ),
    )
    op.drop_constraint("ck_meter_epochs_epoch_positive", _TABLE)
    op.create_check_constraint(op.f("ck_meter_epochs_epoch_not_negative"), _TABLE, "epoch >= 0")
    op.create_check_constraint(op.f("ck_meter_epochs_published_not_negative"), _TABLE, "published >= 0")


def downgrade() -> None:
    op.execute("DELETE FROM meter_epochs WHERE epoch = 0")
    op.drop_constraint("ck_meter_epochs_published_not_negative", _TABLE)
    op.drop_constraint("ck_meter_epochs_epoch_not_negative", _TABLE)
    op.create_check_constraint(op.f("ck_meter_epochs_epoch_positive"), _TABLE, "epoch > 0")
    op.drop_column(_TABLE, "published")
    op.drop_column(_TABLE, "name")
