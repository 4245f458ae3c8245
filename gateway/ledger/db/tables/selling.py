"""Coupons with their redemptions, and automatic top-ups."""

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
    text,
)
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from gateway.ledger.db.tables.columns import (
    Word,
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
    updated_at,
    words,
)
from policies.billing.top_ups import TopUpStatus

REDEMPTION_STATUSES = ("reserved", "redeemed", "released")

coupons = Table(
    "coupons",
    metadata,
    id_column(),
    Column("code", Text, nullable=False, unique=True, comment="What customers enter, in capitals"),
    Column("description", Text),
    Column("percent_off", Numeric),
    Column("amount_off", Numeric, comment="In the currency of the coupon"),
    Column("currency", Text),
    Column("bonus_credits", BigInteger, comment="Come with a pack, and are a part of what was bought"),
    Column(
        "periods", Integer, nullable=False, server_default=text("1"), comment="Of a plan, from the first payment on"
    ),
    Column("plans", words(), comment="By id; NULL: every plan"),
    Column("packs", words(), comment="By id; NULL: every pack"),
    Column("max_redemptions", Integer, comment="Of all accounts; NULL: no limit"),
    Column("once_per_account", Boolean, nullable=False, server_default=text("true")),
    moment("expires_at"),
    Column("is_active", Boolean, nullable=False, server_default=text("true")),
    created_at(),
    updated_at(),
    iso_4217(),
    CheckConstraint("code ~ '^[A-Z0-9][A-Z0-9-]{2,39}$'", name="code_is_a_word"),
    CheckConstraint("num_nonnulls(percent_off, amount_off, bonus_credits) = 1", name="gives_one_thing"),
    CheckConstraint("(amount_off IS NULL) = (currency IS NULL)", name="amount_has_currency"),
    CheckConstraint("percent_off <= 100", name="percent_off_at_most_all"),
    *positive("percent_off", "amount_off", "bonus_credits", "periods", "max_redemptions"),
    comment="What customers enter at a checkout to pay less, or to get more credits",
)

coupon_redemptions = Table(
    "coupon_redemptions",
    metadata,
    id_column(),
    Column("coupon_id", PG_UUID(as_uuid=True), ForeignKey("coupons.id", ondelete="RESTRICT"), nullable=False),
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("checkout_id", PG_UUID(as_uuid=True), ForeignKey("checkouts.id", ondelete="RESTRICT"), nullable=False),
    Column("status", Text, nullable=False, server_default=text("'reserved'")),
    money("discount", server_default=text("0"), comment="Off one payment, as it was offered"),
    currency_column(),
    credits_column("bonus_credits"),
    moment("reserved_until", comment="NULL: until the provider tells what became of the checkout"),
    moment("redeemed_at"),
    created_at(),
    updated_at(),
    one_of("status", REDEMPTION_STATUSES),
    iso_4217(),
    *not_negative("discount", "bonus_credits"),
    CheckConstraint("(status = 'redeemed') = (redeemed_at IS NOT NULL)", name="redeemed_at_a_time"),
    Index("uq_coupon_redemptions_checkout_id", "checkout_id", unique=True),
    # What counts towards the limits.
    Index("ix_coupon_redemptions_counted", "coupon_id", "user_id", postgresql_where=text("status <> 'released'")),
    Index("ix_coupon_redemptions_user_id_created_at", "user_id", "created_at"),
    comment="Who used which coupon at which checkout",
)

TOP_UP_STATUSES = ("pending", "completed", "failed")

top_up_settings = Table(
    "top_up_settings",
    metadata,
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), primary_key=True),
    Column("provider", Text, nullable=False),
    Column("status", Word(TopUpStatus), nullable=False),
    Column("threshold", BigInteger, nullable=False, comment="The balance in credits below which it tops up"),
    Column("pack_id", Text, nullable=False),
    money("price", comment="Of the pack when the customer agreed to it; at another price it stops"),
    currency_column(),
    money("daily_limit", comment="In UTC, as the monthly one"),
    money("monthly_limit"),
    Column("payment_method_id", Text, comment="The provider's id of the saved card"),
    Column("payment_method", Text, comment="Such as visa 4242"),
    Column("setup_checkout_id", Text, comment="Where the customer was last sent to save a card"),
    Column("stopped_reason", Text),
    moment("stopped_at"),
    created_at(),
    updated_at(),
    provider_is_a_word(),
    one_of("status", TopUpStatus),
    iso_4217(),
    *not_negative("threshold"),
    *positive("price", "daily_limit", "monthly_limit"),
    CheckConstraint("status <> 'on' OR payment_method_id IS NOT NULL", name="on_with_a_card"),
    CheckConstraint("(status = 'stopped') = (stopped_at IS NOT NULL)", name="stopped_at_a_time"),
    Index("ix_top_up_settings_on", "user_id", postgresql_where=text("status = 'on'")),
    Index(
        "ix_top_up_settings_payment_method_id",
        "payment_method_id",
        postgresql_where=text("payment_method_id IS NOT NULL"),
    ),
    comment="What customers agreed to be charged by themselves when their credits run low",
)

top_ups = Table(
    "top_ups",
    metadata,
    id_column(),
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("checkout_id", PG_UUID(as_uuid=True), ForeignKey("checkouts.id", ondelete="RESTRICT"), nullable=False),
    Column("payment_method_id", Text, nullable=False),
    Column("status", Text, nullable=False, server_default=text("'pending'")),
    money("price"),
    currency_column(),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    moment("due_at", nullable=False, server_default=text("now()"), comment="When the provider is asked again"),
    moment("settled_at"),
    Column("error_message", Text),
    created_at(),
    updated_at(),
    one_of("status", TOP_UP_STATUSES),
    iso_4217(),
    *positive("price"),
    *not_negative("attempts"),
    CheckConstraint("(status = 'pending') = (settled_at IS NULL)", name="settled_unless_pending"),
    Index("uq_top_ups_checkout_id", "checkout_id", unique=True),
    # One at a time.
    Index("uq_top_ups_pending", "user_id", unique=True, postgresql_where=text("status = 'pending'")),
    # What was spent in a day and a month.
    Index("ix_top_ups_user_id_created_at", "user_id", "created_at"),
    comment="Payments that top-ups made; the checkout names what each bought",
)
