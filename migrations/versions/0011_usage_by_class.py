"""Columns for the model and the token counts of a call. All may be NULL, so that the release before goes on writing."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
serves_from = "0010"
is_needed = True

_TABLE = "usage_tracking"


def _columns() -> tuple[sa.Column[Any], ...]:
    """Made for each run: a column belongs to one table."""
    return (
        sa.Column("model", sa.Text(), comment="The model that the request asks for, else the one that answered"),
        sa.Column(
            "input_tokens", sa.BigInteger(), comment="All input, the cached and the written to the cache included"
        ),
        sa.Column("cached_input_tokens", sa.BigInteger()),
        sa.Column("cache_write_tokens", sa.BigInteger()),
        sa.Column("output_tokens", sa.BigInteger(), comment="All output, the reasoning included"),
        sa.Column("reasoning_tokens", sa.BigInteger()),
        sa.Column(
            "usage_source",
            sa.Text(),
            comment="reported, estimated, missing or none; NULL where no settlement wrote the row",
        ),
    )


_COMMENTS = {
    "tokens_used": "Input and output together",
    "cost_usd": "What the upstream asks for the call; NULL where it is not known",
}


def upgrade() -> None:
    for column in _columns():
        op.add_column(_TABLE, column)
    for name, comment in _COMMENTS.items():
        op.alter_column(_TABLE, name, comment=comment)


def downgrade() -> None:
    for name in _COMMENTS:
        op.alter_column(_TABLE, name, comment=None)
    for column in reversed(_columns()):
        op.drop_column(_TABLE, column.name)
