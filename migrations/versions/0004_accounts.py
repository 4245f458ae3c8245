"""What people sign in with: sessions, one-time tokens, and what slows guessing down; and what they are told."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
serves_from = "0004"
is_needed = True

TABLES = "notice_deliveries, notices, throttles, one_time_tokens, refresh_tokens, sessions"


def upgrade() -> None:
    script = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    # Past SQLAlchemy, whose prepared statements hold one statement each.
    op.get_bind().connection.run_async(lambda driver: driver.execute(script))


def downgrade() -> None:
    op.get_bind().exec_driver_sql(f"DROP TABLE {TABLES}")
    op.get_bind().exec_driver_sql("DROP INDEX ix_users_deleted_at")
