"""What the meter has to find again when Redis has lost it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Table, func, text

from gateway.ledger.db.tables.columns import metadata, moment, not_negative, positive

meter_epochs = Table(
    "meter_epochs",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False, server_default=text("1")),
    moment("started_at", nullable=False, server_default=func.now()),
    *not_negative("partition"),
    *positive("epoch"),
    comment="How often each partition of Redis has begun anew: after a restart, a failover, a flush, an older copy",
)
