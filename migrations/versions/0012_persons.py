"""Who is the same person, and which free plans give no credits yet. Both columns are new, with defaults."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
serves_from = "0011"
is_needed = True


def upgrade() -> None:
    op.add_column(
        "users",
        sa.Column(
            "persons",
            ARRAY(sa.LargeBinary()),
            nullable=False,
            server_default=sa.text("'{}'"),
            comment="Keyed digests of its mailboxes, kept a while after deletion: free credits and trials are one a "
            "person",
        ),
    )
    op.create_index("ix_users_persons", "users", ["persons"], postgresql_using="gin")
    op.add_column(
        "subscriptions",
        sa.Column(
            "credits_withheld",
            sa.Text(),
            comment="Why a free plan gives no credits: unverified, or same_person has them already; NULL: it gives "
            "them",
        ),
    )
    op.create_check_constraint(
        op.f("ck_subscriptions_credits_withheld"), "subscriptions", "credits_withheld IN ('unverified', 'same_person')"
    )
    _comment("A use later than shortly after it means theft and revokes the session")
    op.create_table_comment("refresh_tokens", "The unused ones are valid; a used one detects theft")


def downgrade() -> None:
    op.create_table_comment("refresh_tokens", "One token per session is unused; a used one detects theft")
    _comment("A second use means theft and revokes the session")
    op.drop_constraint(op.f("ck_subscriptions_credits_withheld"), "subscriptions")
    op.drop_column("subscriptions", "credits_withheld")
    op.drop_index("ix_users_persons", "users")
    op.drop_column("users", "persons")


def _comment(of_used_at: str) -> None:
    op.alter_column("refresh_tokens", "used_at", comment=of_used_at)
