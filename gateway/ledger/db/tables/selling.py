"""Coupons and their redemptions."""

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
    updated_at,
    words,
)

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
