"""Books that reports of months are made from, and the reports of closed months. Triggers of other tables write them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Date, Index, Integer, Numeric, Table, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from gateway.ledger.db.tables.columns import created_at, metadata, moment, one_of, serial_column

REVENUE_KINDS = ("charge", "refund", "dispute")

usage_months = Table(
    "usage_months",
    metadata,
    Column(
        "month",
        Date,
        primary_key=True,
        comment="The first day of the month in which the calls were admitted, in UTC",
    ),
    Column("user_id", PG_UUID(as_uuid=True), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("credits_charged", Numeric, nullable=False),
    Column("cost_usd", Numeric, nullable=False),
    Column("cost_unknown", BigInteger, nullable=False, comment="Calls whose cost_usd is not known"),
    postgresql_with={"fillfactor": "50"},
    comment="Sums of usage_tracking by month and account, which its triggers keep",
)

# No foreign keys: a book stays as it was written.
subscription_movements = Table(
    "subscription_movements",
    metadata,
    serial_column(),
    moment("moved_at", nullable=False),
    Column("subscription_id", PG_UUID(as_uuid=True), nullable=False),
    Column("user_id", PG_UUID(as_uuid=True), nullable=False),
    Column("provider", Text, nullable=False),
    Column("plan_id", Text, nullable=False),
    Column(
        "plan_version", BigInteger, nullable=False, comment="The version that it is on; plan_versions has its price"
    ),
    Column("quantity", Integer, nullable=False),
    Column("is_paying", Boolean, nullable=False, comment="Active or past due: it counts towards recurring revenue"),
    # What each subscription was at, at an instant.
    Index("ix_subscription_movements_subscription_id_id", "subscription_id", "id"),
    # The history of the accounts that a month has moved.
    Index("ix_subscription_movements_user_id_id", "user_id", "id"),
    # Which these are.
    Index("ix_subscription_movements_moved_at", "moved_at"),
    comment="What subscriptions are at, from when on; triggers write it. Append-only: a trigger refuses UPDATE and "
    "DELETE",
)

revenue_entries = Table(
    "revenue_entries",
    metadata,
    serial_column(),
    Column("month", Date, nullable=False, comment="The first day of the month that reports it, in UTC"),
    Column(
        "paid_month",
        Date,
        nullable=False,
        comment="The month of the money; an earlier one than month had been closed by then",
    ),
    Column("kind", Text, nullable=False),
    Column("amount", Numeric, nullable=False, comment="Negative for money that goes back"),
    Column("currency", Text, nullable=False),
    Column("plan_id", Text),
    Column("provider", Text, nullable=False),
    Column("payment_id", PG_UUID(as_uuid=True), nullable=False),
    created_at(),
    one_of("kind", REVENUE_KINDS),
    Index("ix_revenue_entries_month", "month"),
    comment="Money that came and went, by the month that reports it; triggers write it. Append-only, as the movements",
)

report_months = Table(
    "report_months",
    metadata,
    Column("month", Date, primary_key=True),
    moment("closed_at", nullable=False),
    Column("reports", JSONB, nullable=False),
    comment="The reports of closed months, which never change",
)
