"""What the meter has to find again when Redis has lost it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
serves_from = "0008"
is_needed = True


def upgrade() -> None:
    op.create_table(
        "meter_epochs",
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("epoch > 0", name=op.f("ck_meter_epochs_epoch_positive")),
        sa.CheckConstraint("partition >= 0", name=op.f("ck_meter_epochs_partition_not_negative")),
        sa.PrimaryKeyConstraint("partition", name=op.f("pk_meter_epochs")),
        comment="How often each partition of Redis has begun anew: after a restart, a failover, a flush, an older copy",
    )


def downgrade() -> None:
    op.drop_table("meter_epochs")
