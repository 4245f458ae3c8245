"""Subscriptions, payments, and the inbox of provider webhooks."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from gateway.ledger.db.tables.columns import (
    Word,
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
from policies.model import SubscriptionStatus

# The statuses of an account's current subscription; the others are ended or not started.
CURRENT_STATUSES = (
    SubscriptionStatus.TRIALING,
    SubscriptionStatus.ACTIVE,
    SubscriptionStatus.PAST_DUE,
    SubscriptionStatus.PAUSED,
)
CURRENT = "status IN ({})".format(", ".join(f"'{status}'" for status in CURRENT_STATUSES))
HAS_ENDED = f"status IN ('{SubscriptionStatus.CANCELED}', '{SubscriptionStatus.EXPIRED}')"
# False of a checkout that was abandoned: it ends without ever having begun.
WAS_BEGUN = "(provider = 'manual' OR provider_subscription_id IS NOT NULL)"

# Marks in the metadata. The gateway has paused the payments at the provider:
PAYMENTS_PAUSED = "payments_paused"
# An operator has paused the subscription, which the provider goes on calling active:
PAUSED_HERE = "paused_here"
# Another subscription superseded it, and the provider charges for it still:
IS_BILLED = """metadata @> '{"is_billed": true}'"""

subscriptions = Table(
    "subscriptions",
    metadata,
    id_column(),
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("plan_id", Text, ForeignKey("subscription_plans.id", ondelete="RESTRICT"), nullable=False),
    Column(
        "plan_version", BigInteger, nullable=False, comment="The version of the plan at the start, or the pinned one"
    ),
    Column(
        "keeps_version",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="True: pinned to plan_version; false: follows the plan",
    ),
    Column("status", Word(SubscriptionStatus), nullable=False),
    Column("quantity", Integer, nullable=False, server_default=text("1"), comment="Seats, under per-seat pricing"),
    Column("provider", Text, nullable=False, server_default=text("'manual'")),
    Column("provider_subscription_id", Text),
    moment("current_period_start", nullable=False),
    moment("current_period_end", nullable=False),
    moment("period_anchor", nullable=False, comment="The instant from which period boundaries are counted"),
    Column("cancel_at_period_end", Boolean, nullable=False, server_default=text("false")),
    moment("canceled_at"),
    moment("trial_start"),
    moment("trial_end"),
    moment("past_due_since", comment="Set while past_due; access ends after the grace period"),
    Column("next_plan_id", Text, ForeignKey("subscription_plans.id", ondelete="RESTRICT")),
    Column(
        "next_quantity", Integer, comment="With next_plan_id, the change that applies with the next period; NULL: none"
    ),
    Column(
        "credits_withheld",
        Text,
        comment="Why a free plan gives no credits: unverified, or same_person has them already; NULL: it gives them",
    ),
    moment("provider_synced_at", comment="When the stored provider state was fetched; older states are ignored"),
    metadata_column(),
    created_at(),
    updated_at(),
    one_of("status", SubscriptionStatus),
    provider_is_a_word(),
    one_of("credits_withheld", ("unverified", "same_person")),
    *positive("quantity", "next_quantity"),
    CheckConstraint("current_period_end > current_period_start", name="period_order"),
    CheckConstraint("trial_end > trial_start", name="trial_order"),
    UniqueConstraint("provider", "provider_subscription_id"),
    # An account has one current subscription; also finds it for each key that is not cached.
    Index("uq_subscriptions_current", "user_id", unique=True, postgresql_where=text(CURRENT)),
    # An account has one trial.
    Index("uq_subscriptions_trial", "user_id", unique=True, postgresql_where=text("trial_start IS NOT NULL")),
    # A user's subscriptions, newest first.
    Index("ix_subscriptions_user_id_created_at", "user_id", "created_at"),
    # The renewal worker: periods that have ended.
    Index("ix_subscriptions_current_period_end", "current_period_end", postgresql_where=text(CURRENT)),
    # The renewal worker: ended grace, abandoned checkouts.
    Index("ix_subscriptions_past_due_since", "past_due_since", postgresql_where=text("status = 'past_due'")),
    Index("ix_subscriptions_incomplete", "created_at", postgresql_where=text("status = 'incomplete'")),
    # The worker that tells providers what was decided here.
    Index(
        "ix_subscriptions_marked",
        "provider",
        postgresql_where=text(f"metadata ? '{PAYMENTS_PAUSED}' OR metadata ? '{PAUSED_HERE}' OR {IS_BILLED}"),
    ),
    Index("ix_subscriptions_plan_id", "plan_id"),
    Index("ix_subscriptions_next_plan_id", "next_plan_id", postgresql_where=text("next_plan_id IS NOT NULL")),
    # All subscriptions, newest first, by cursor.
    Index("ix_subscriptions_created_at_id", "created_at", "id"),
    comment="Subscriptions of users to plans, with their current period",
)

provider_customers = Table(
    "provider_customers",
    metadata,
    id_column(),
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("provider", Text, nullable=False),
    Column("provider_customer_id", Text, nullable=False),
    created_at(),
    provider_is_a_word(),
    UniqueConstraint("provider", "provider_customer_id"),
    UniqueConstraint("user_id", "provider"),
    comment="Customer ids of users at payment providers",
)

payment_transactions = Table(
    "payment_transactions",
    metadata,
    id_column(),
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("subscription_id", PG_UUID(as_uuid=True), ForeignKey("subscriptions.id", ondelete="RESTRICT")),
    Column("plan_id", Text, ForeignKey("subscription_plans.id", ondelete="RESTRICT")),
    Column("invoice_id", PG_UUID(as_uuid=True), ForeignKey("invoices.id", ondelete="RESTRICT")),
    Column("provider", Text, nullable=False),
    Column("provider_payment_id", Text),
    Column("transaction_type", Text, nullable=False),
    Column("status", Text, nullable=False),
    money("amount"),
    money("refunded_amount", server_default=text("0")),
    currency_column(),
    Column("payment_method", Text),
    credits_column("credits_awarded"),
    credits_column("credits_withdrawn", comment="Awarded credits that refunds and disputes took back"),
    Column("grant_id", PG_UUID(as_uuid=True), ForeignKey("credit_grants.id", ondelete="RESTRICT")),
    Column(
        "refers_to_id",
        PG_UUID(as_uuid=True),
        ForeignKey("payment_transactions.id", ondelete="RESTRICT"),
        comment="The payment that a refund or dispute belongs to",
    ),
    Column("description", Text),
    Column("error_message", Text),
    moment("processed_at"),
    metadata_column(),
    created_at(),
    updated_at(),
    iso_4217(),
    provider_is_a_word(),
    one_of("transaction_type", ("subscription", "credits", "refund", "dispute")),
    one_of("status", ("pending", "completed", "failed", "refunded", "partially_refunded", "disputed")),
    *not_negative("amount", "refunded_amount", "credits_awarded", "credits_withdrawn"),
    CheckConstraint("refunded_amount <= amount", name="refunded_within_amount"),
    # A payment is booked once, however often its webhook arrives.
    UniqueConstraint("provider", "provider_payment_id"),
    # A user's payments, newest first, by cursor.
    Index("ix_payment_transactions_user_id_created_at_id", "user_id", "created_at", "id"),
    # All payments, newest first, by cursor.
    Index("ix_payment_transactions_created_at_id", "created_at", "id"),
    # Those of a status, however rare.
    Index("ix_payment_transactions_status_created_at_id", "status", "created_at", "id"),
    Index("ix_payment_transactions_subscription_id", "subscription_id"),
    Index("ix_payment_transactions_invoice_id", "invoice_id"),
    Index("ix_payment_transactions_refers_to_id", "refers_to_id"),
    comment="Payments, refunds and disputes, with their outcome",
)

webhook_events = Table(
    "webhook_events",
    metadata,
    id_column(),
    Column("provider", Text, nullable=False),
    Column(
        "provider_event_id",
        Text,
        nullable=False,
        comment="The provider's id, or a digest of the body without one",
    ),
    Column("event_type", Text, nullable=False),
    Column("status", Text, nullable=False, server_default=text("'received'")),
    Column("payload", JSONB, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("error_message", Text),
    moment("occurred_at", comment="By the provider's clock; events may arrive out of order"),
    moment("next_attempt_at"),
    moment("processed_at"),
    created_at(),
    updated_at(),
    provider_is_a_word(),
    one_of("status", ("received", "processed", "ignored", "failed")),
    *not_negative("attempts"),
    # A repeated delivery is the same event.
    UniqueConstraint("provider", "provider_event_id"),
    # The worker: events to be processed.
    Index("ix_webhook_events_due", "next_attempt_at", postgresql_where=text("status IN ('received', 'failed')")),
    # All events, newest first, by cursor.
    Index("ix_webhook_events_created_at_id", "created_at", "id"),
    comment="Inbox of provider events, stored before they are processed",
)
