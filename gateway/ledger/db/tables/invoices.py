"""Invoices, and the time that is still to be invoiced."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Numeric,
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
    metadata_column,
    moment,
    money,
    not_negative,
    one_of,
    positive,
    provider_is_a_word,
    updated_at,
)

invoices = Table(
    "invoices",
    metadata,
    id_column(),
    # Assigned under a lock at issue: a sequence would leave gaps on rollback.
    Column("number", BigInteger, unique=True, comment="Gapless, in order of issue; NULL while a draft"),
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("subscription_id", PG_UUID(as_uuid=True), ForeignKey("subscriptions.id", ondelete="RESTRICT")),
    Column("status", Text, nullable=False, server_default=text("'draft'")),
    currency_column(),
    money("subtotal"),
    money("tax", server_default=text("0")),
    money("total"),
    Column("lines", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    moment("period_start"),
    moment("period_end"),
    moment("issued_at"),
    moment("paid_at"),
    Column("provider", Text, nullable=False, server_default=text("'manual'")),
    Column("provider_invoice_id", Text),
    Column("provider_number", Text, comment="The provider's number of its own invoice"),
    Column("url", Text, comment="The provider's page of the invoice"),
    Column("tax_rate", Numeric, nullable=False, server_default=text("0"), comment="A fraction: 0.19 is 19 %"),
    Column("corrects_id", PG_UUID(as_uuid=True), ForeignKey("invoices.id", ondelete="RESTRICT")),
    Column("full_number", Text, unique=True, comment="The number as it is printed, with prefix and year"),
    Column(
        "plan_id",
        Text,
        ForeignKey("subscription_plans.id", ondelete="RESTRICT"),
        comment="The plan at the time of issue",
    ),
    Column("seller", JSONB(none_as_null=True), comment="Name, address, tax id and bank at the time of issue"),
    Column("buyer", JSONB(none_as_null=True), comment="Name, address and VAT id at the time of issue"),
    moment("due_at"),
    Column("reason", Text, comment="Of a credit note"),
    money("amount_paid", server_default=text("0")),
    money("amount_credited", server_default=text("0"), comment="The sum of its credit notes"),
    metadata_column(),
    created_at(),
    updated_at(),
    iso_4217(),
    one_of("status", ("draft", "open", "paid", "void", "uncollectible")),
    provider_is_a_word(),
    *positive("number"),
    *not_negative("amount_paid"),
    CheckConstraint("amount_credited >= 0 AND amount_credited <= greatest(total, 0)", name="credited_within_total"),
    CheckConstraint("total = subtotal + tax", name="total_is_the_sum"),
    CheckConstraint("status = 'draft' OR number IS NOT NULL OR provider <> 'manual'", name="numbered_when_issued"),
    # The credit notes of an invoice.
    Index("ix_invoices_corrects_id", "corrects_id", postgresql_where=text("corrects_id IS NOT NULL")),
    # A period has at most one invoice.
    Index(
        "uq_invoices_subscription_id_period_start",
        "subscription_id",
        "period_start",
        unique=True,
        postgresql_where=text("provider = 'manual' AND corrects_id IS NULL AND status <> 'void'"),
    ),
    CheckConstraint("jsonb_typeof(lines) = 'array'", name="lines_is_an_array"),
    UniqueConstraint("provider", "provider_invoice_id"),
    # A user's invoices, newest first, by cursor.
    Index("ix_invoices_user_id_created_at_id", "user_id", "created_at", "id"),
    Index("ix_invoices_subscription_id", "subscription_id"),
    Index("ix_invoices_plan_id", "plan_id"),
    # All invoices, newest first, by cursor; those of a time.
    Index("ix_invoices_created_at_id", "created_at", "id"),
    # Those of a status, however rare.
    Index("ix_invoices_status_created_at_id", "status", "created_at", "id"),
    Index("ix_invoices_issued_at", "issued_at"),
    # Search.
    Index("ix_invoices_provider_number", "provider_number", postgresql_where=text("provider_number IS NOT NULL")),
    comment="Invoices. A trigger refuses to change or delete issued ones; a credit note corrects them",
)

billing_spans = Table(
    "billing_spans",
    metadata,
    id_column(),
    Column(
        "subscription_id", PG_UUID(as_uuid=True), ForeignKey("subscriptions.id", ondelete="RESTRICT"), nullable=False
    ),
    moment("starts_at", nullable=False),
    moment("ends_at", nullable=False),
    moment("period_start", nullable=False, comment="The billing period that the span lies in"),
    moment("period_end", nullable=False),
    Column("ends_period", Boolean, nullable=False, comment="True: the period ends with it and is to be invoiced"),
    Column("plan_id", Text, ForeignKey("subscription_plans.id", ondelete="RESTRICT"), nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("pricing", JSONB, nullable=False, comment="Name, model, price, currency and tiers of the plan in the span"),
    credits_column("credits_used", comment="Credits charged in it, as last counted"),
    Column("credits_billed", BigInteger, comment="Of those, the invoiced ones; NULL: never counted"),
    Column(
        "is_price_billed",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="The price of its period is on an invoice of another period",
    ),
    Column("buyer", JSONB(none_as_null=True), comment="For the last invoice of a deleted account; NULL afterwards"),
    Column("invoice_id", PG_UUID(as_uuid=True), ForeignKey("invoices.id", ondelete="RESTRICT")),
    moment("closed_at", comment="When its period was invoiced, or found to need no invoice"),
    created_at(),
    updated_at(),
    CheckConstraint("ends_at >= starts_at", name="order"),
    CheckConstraint("period_end > period_start", name="period_order"),
    *positive("quantity"),
    *not_negative("credits_used", "credits_billed"),
    # A period ends once.
    Index(
        "uq_billing_spans_period",
        "subscription_id",
        "period_start",
        unique=True,
        postgresql_where=text("ends_period"),
    ),
    # A subscription's spans, in order.
    Index("ix_billing_spans_subscription_id_ends_at", "subscription_id", "ends_at"),
    # The worker: periods to invoice.
    Index("ix_billing_spans_open", "ends_at", postgresql_where=text("ends_period AND closed_at IS NULL")),
    Index("ix_billing_spans_plan_id", "plan_id"),
    Index("ix_billing_spans_invoice_id", "invoice_id"),
    comment="Ended stretches of time under the same terms, of subscriptions that no provider bills: what to invoice",
)
