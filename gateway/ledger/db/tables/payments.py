"""Checkouts, the freshness of provider objects, polling cursors, usage reports and invoice numbers."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Index,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from gateway.ledger.db.tables.columns import (
    created_at,
    credits_column,
    currency_column,
    id_column,
    iso_4217,
    metadata,
    moment,
    money,
    not_negative,
    one_of,
    positive,
    provider_is_a_word,
    serial_column,
    updated_at,
)

checkouts = Table(
    "checkouts",
    metadata,
    id_column(),
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("provider", Text, nullable=False),
    Column("provider_checkout_id", Text),
    Column("status", Text, nullable=False, server_default=text("'open'")),
    Column("subscription_id", PG_UUID(as_uuid=True), ForeignKey("subscriptions.id", ondelete="RESTRICT")),
    Column("pack_id", Text, comment="The credit pack, whose terms at the time of the offer are in this row"),
    credits_column("credits"),
    Column("price_id", Text, nullable=False, comment="The provider's id of the price"),
    money("price"),
    currency_column(),
    Column("url", Text),
    created_at(),
    updated_at(),
    provider_is_a_word(),
    one_of("status", ("open", "completed", "expired")),
    iso_4217(),
    *not_negative("credits", "price"),
    CheckConstraint("(subscription_id IS NULL) <> (pack_id IS NULL)", name="buys_one_thing"),
    Index("ix_checkouts_user_id_created_at", "user_id", "created_at"),
    Index("ix_checkouts_subscription_id", "subscription_id"),
    comment="Checkouts at payment providers",
)

provider_objects = Table(
    "provider_objects",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("object_id", Text, primary_key=True),
    moment("fetched_at", nullable=False, comment="By the database's clock, before the request to the provider"),
    provider_is_a_word(),
    comment="When the stored state of a provider's object was fetched; older states are ignored",
)

billing_cursors = Table(
    "billing_cursors",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", JSONB, nullable=False),
    updated_at(),
    comment="Positions of the provider poller and the usage reports",
)

usage_reports = Table(
    "usage_reports",
    metadata,
    serial_column(),
    Column(
        "subscription_id", PG_UUID(as_uuid=True), ForeignKey("subscriptions.id", ondelete="RESTRICT"), nullable=False
    ),
    Column("day", Date, nullable=False, comment="The day of the usage, in UTC"),
    moment("used_at", nullable=False, comment="The time of the last usage"),
    Column("identifier", Text, nullable=False, unique=True, comment="The provider's idempotency identifier"),
    Column("credits_used", BigInteger, nullable=False),
    moment("attempted_at", comment="When it was first sent, or about to be sent"),
    moment("reported_at"),
    Column("error_message", Text, comment="Set: it is not sent again"),
    created_at(),
    *positive("credits_used"),
    Index("ix_usage_reports_subscription_id_day", "subscription_id", "day"),
    Index("ix_usage_reports_unsent", "id", postgresql_where=text("reported_at IS NULL AND error_message IS NULL")),
    comment="Usage that a provider bills: recorded first, then sent until the provider accepts it",
)

overages = Table(
    "overages",
    metadata,
    id_column(),
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column(
        "subscription_id", PG_UUID(as_uuid=True), ForeignKey("subscriptions.id", ondelete="RESTRICT"), nullable=False
    ),
    Column("grant_id", PG_UUID(as_uuid=True), ForeignKey("credit_grants.id", ondelete="RESTRICT"), nullable=False),
    Column("credits", BigInteger, nullable=False),
    money("price", comment="Of each credit"),
    currency_column(),
    Column("plan_name", Text, nullable=False),
    moment("period_start", nullable=False),
    moment("period_end", nullable=False),
    moment("invoiced_at", comment="When it went on an own invoice, or was handed to the provider's reports"),
    created_at(),
    updated_at(),
    iso_4217(),
    *positive("credits"),
    *not_negative("price"),
    UniqueConstraint("grant_id"),
    # What the next own invoice of a subscription includes.
    Index("ix_overages_open", "subscription_id", postgresql_where=text("invoiced_at IS NULL")),
    Index("ix_overages_user_id", "user_id"),
    comment="Usage below zero of postpaid plans: forgiven as credits by its grant, and billed as money",
)

payment_allocations = Table(
    "payment_allocations",
    metadata,
    Column(
        "payment_id",
        PG_UUID(as_uuid=True),
        ForeignKey("payment_transactions.id", ondelete="RESTRICT"),
        primary_key=True,
    ),
    Column("invoice_id", PG_UUID(as_uuid=True), ForeignKey("invoices.id", ondelete="RESTRICT"), primary_key=True),
    money("amount"),
    created_at(),
    *positive("amount"),
    # Which payments paid an invoice.
    Index("ix_payment_allocations_invoice_id", "invoice_id"),
    comment="Which invoices a payment pays that an operator recorded, and how much of each",
)

invoice_numbers = Table(
    "invoice_numbers",
    metadata,
    Column("id", SmallInteger, primary_key=True, server_default=text("1"), autoincrement=False),
    Column("last_number", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
    *not_negative("last_number"),
    comment="One row: the last invoice number. Its lock lasts until the commit, so there are no gaps",
)
