"""Fingerprints of peppers. The release before neither reads nor writes them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None
serves_from = "0016"
is_needed = True


def upgrade() -> None:
    op.create_table(
        "pepper_fingerprints",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column(
            "fingerprint", sa.LargeBinary(), nullable=False, comment="HMAC-SHA-256 of a fixed text under the pepper"
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_pepper_fingerprints")),
        comment="The peppers under which this database has digests; no process starts with another one",
    )


def downgrade() -> None:
    op.drop_table("pepper_fingerprints")
