"""Rewords the comments of tables and columns; no data and no constraint changes."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
serves_from = "0009"
is_needed = False


def upgrade() -> None:
    _run("0010_comments.sql")


def downgrade() -> None:
    _run("0010_comments_before.sql")


def _run(name: str) -> None:
    script = Path(__file__).with_name(name).read_text(encoding="utf-8")
    # The driver itself runs it: SQLAlchemy prepares statements, one at a time.
    op.get_bind().connection.run_async(lambda driver: driver.execute(script))
