"""Which mailboxes an account has proved to read. Of earlier accounts: all that it has, where it proved one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None
serves_from = "0020"
is_needed = True

# An erased account has no `email_verified_at` any more; the log keeps that it had.
_MARK_EARLIER = """
    UPDATE users u SET proven_persons = persons
     WHERE persons <> '{}' AND (email_verified_at IS NOT NULL OR EXISTS (
           SELECT FROM audit_log a WHERE a.entity = 'user' AND a.entity_id = u.id::text
              AND a.action IN ('account.verify_email', 'account.reset_password')))
"""


def upgrade() -> None:
    op.add_column(
        "users",
        sa.Column(
            "proven_persons",
            ARRAY(sa.LargeBinary()),
            nullable=False,
            server_default=sa.text("'{}'"),
            comment="Those of persons whose mail it has read: what others only said of themselves counts not for it",
        ),
    )
    op.get_bind().exec_driver_sql(_MARK_EARLIER)


def downgrade() -> None:
    op.drop_column("users", "proven_persons")
