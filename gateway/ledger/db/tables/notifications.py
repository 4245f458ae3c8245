"""Notifications and their deliveries by channel."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, Table, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from gateway.ledger.db.tables.columns import created_at, id_column, metadata, moment, not_negative, one_of

CHANNELS = ("mail", "webhook")
DELIVERY_STATUSES = ("pending", "delivered", "dropped", "failed")

notices = Table(
    "notices",
    metadata,
    id_column(),
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("kind", Text, nullable=False, comment="Such as credits.threshold"),
    Column("payload", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column(
        "once",
        Text,
        comment="A user has one notification of each value, such as a threshold of a period; NULL: unlimited",
    ),
    created_at(),
    UniqueConstraint("user_id", "once"),
    # Cleanup.
    Index("ix_notices_created_at", "created_at", postgresql_where=text("once IS NULL")),
    CheckConstraint("jsonb_typeof(payload) = 'object'", name="payload_is_an_object"),
    comment="Notifications of users and the operator's system, written with the change that they report",
)

notice_deliveries = Table(
    "notice_deliveries",
    metadata,
    Column("notice_id", PG_UUID(as_uuid=True), ForeignKey("notices.id", ondelete="CASCADE"), primary_key=True),
    Column("channel", Text, primary_key=True),
    Column("status", Text, nullable=False, server_default=text("'pending'")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    moment("due_at", nullable=False, server_default=text("now()"), comment="While leased, the end of the lease"),
    moment("ended_at"),
    Column("error", Text, comment="Why the last attempt failed"),
    one_of("channel", CHANNELS),
    one_of("status", DELIVERY_STATUSES),
    *not_negative("attempts"),
    CheckConstraint("(status = 'pending') = (ended_at IS NULL)", name="ended_unless_pending"),
    # The worker: due deliveries.
    Index("ix_notice_deliveries_due_at", "due_at", postgresql_where=text("status = 'pending'")),
    comment="Deliveries of notifications by channel",
)
