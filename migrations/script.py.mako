"""${message}"""

from __future__ import annotations

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None
serves_from = ${repr(down_revision)}  # the oldest version of the gateway that works with this schema
is_needed = True  # by the version that brings it; False: it also works without


def upgrade() -> None:
    ${upgrades if upgrades else 'raise NotImplementedError'}


def downgrade() -> None:
    ${downgrades if downgrades else 'raise NotImplementedError'}
