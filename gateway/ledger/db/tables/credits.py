"""Credits: the balance of an account, its grants, and the ledger of every movement.

sum(credit_ledger.amount) = user_credits.current_credits
sum(credit_grants.remaining) = greatest(user_credits.current_credits, 0)
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from gateway.ledger.db.tables.columns import (
    created_at,
    credits_column,
    id_column,
    metadata,
    metadata_column,
    moment,
    not_negative,
    one_of,
    positive,
    serial_column,
    updated_at,
)

GRANT_SOURCES = ("plan", "trial", "purchase", "promo", "admin", "overage")
LEDGER_KINDS = ("grant", "usage", "refund", "expiry", "adjustment", "clawback")

user_credits = Table(
    "user_credits",
    metadata,
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), primary_key=True),
    credits_column("current_credits", comment="May be negative: a charge above its hold is charged in full"),
    credits_column(
        "total_credits_purchased", comment="Grants of source purchase, without what refunds and disputes took back"
    ),
    credits_column("total_credits_used"),
    credits_column("total_credits_expired"),
    credits_column("credits_used_this_period"),
    credits_column("period_credits", comment="The period's credits; the account is notified when 80 % are used"),
    credits_column(
        "period_shortfall",
        comment="Credits that a smaller plan could not take back; a larger plan grants that much less",
    ),
    Column(
        "noted_percent",
        SmallInteger,
        nullable=False,
        server_default=text("0"),
        comment="The used percentage of the period's credits that the account was last notified of",
    ),
    Column(
        "alert_percents",
        ARRAY(SmallInteger, as_tuple=True),
        comment="The used percentages of a period to tell of, rising; NULL: 80 and 100",
    ),
    Column(
        "alert_balance",
        BigInteger,
        comment="The account is told when a charge takes the balance below; NULL: never",
    ),
    Column(
        "balance_alerted",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Told, and the balance has been below alert_balance since",
    ),
    credits_column(
        "overage_counted", comment="The total_credits_used up to which usage below zero was billed, or was none"
    ),
    credits_column(
        "credit_seq",
        comment="Counts the movements to publish to Redis (grant, adjustment, expiry, not usage)",
    ),
    moment("period_start"),
    moment("period_end"),
    moment("last_credit_refill"),
    moment("next_credit_refill"),
    Column("subscription_id", PG_UUID(as_uuid=True), ForeignKey("subscriptions.id", ondelete="SET NULL")),
    created_at(),
    updated_at(),
    *not_negative(
        "total_credits_purchased",
        "total_credits_used",
        "total_credits_expired",
        "credits_used_this_period",
        "period_credits",
        "period_shortfall",
        "overage_counted",
        "credit_seq",
    ),
    *positive("alert_balance"),
    # Accounts whose refill is due.
    Index(
        "ix_user_credits_next_credit_refill",
        "next_credit_refill",
        postgresql_where=text("next_credit_refill IS NOT NULL"),
    ),
    # Ended postpaid subscriptions whose last usage is to be billed.
    Index("ix_user_credits_owing", "subscription_id", postgresql_where=text("current_credits < 0")),
    comment="One row per user; its lock serializes the movements of the account's credits",
)

credit_grants = Table(
    "credit_grants",
    metadata,
    id_column(),
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("source", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("remaining", BigInteger, nullable=False),
    Column(
        "priority", SmallInteger, nullable=False, server_default=text("50"), comment="Lower numbers burn down first"
    ),
    moment("effective_at", nullable=False),
    moment("expires_at", comment="NULL: never"),
    Column(
        "is_scheduled",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="True until it starts; before, remaining is 0 and the ledger has no entry",
    ),
    Column("subscription_id", PG_UUID(as_uuid=True), ForeignKey("subscriptions.id", ondelete="RESTRICT")),
    moment("period_start", comment="The start of the period whose credits these are; NULL: not of a period"),
    Column("reason", Text),
    metadata_column(),
    created_at(),
    updated_at(),
    one_of("source", GRANT_SOURCES),
    *positive("amount"),
    CheckConstraint("remaining BETWEEN 0 AND amount", name="remaining_within_amount"),
    CheckConstraint("expires_at > effective_at", name="expires_after_it_begins"),
    CheckConstraint("NOT is_scheduled OR remaining = 0", name="scheduled_is_not_spendable"),
    # A period's credits are granted once.
    UniqueConstraint("subscription_id", "period_start"),
    # Burn-down: an account's open grants in order.
    Index(
        "ix_credit_grants_open",
        "user_id",
        "priority",
        "expires_at",
        "id",
        postgresql_where=text("remaining > 0"),
    ),
    # The expiry worker: grants that are due to expire.
    Index(
        "ix_credit_grants_expiring",
        "expires_at",
        postgresql_where=text("remaining > 0 AND expires_at IS NOT NULL"),
    ),
    # The expiry worker: scheduled grants that are due to start.
    Index("ix_credit_grants_scheduled", "effective_at", postgresql_where=text("is_scheduled")),
    # A user's grants, newest first.
    Index("ix_credit_grants_user_id_created_at", "user_id", "created_at"),
    comment="Granted credits, each grant with its own expiry; the sum of remaining is the balance",
)

credit_ledger = Table(
    "credit_ledger",
    metadata,
    serial_column(),
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount", BigInteger, nullable=False, comment="Signed change of the balance"),
    Column("balance_after", BigInteger, nullable=False),
    Column("grant_id", PG_UUID(as_uuid=True), ForeignKey("credit_grants.id", ondelete="RESTRICT")),
    Column("reason", Text),
    Column("actor", Text, nullable=False, comment="user:ID, admin:NAME, worker:NAME or provider:NAME"),
    metadata_column(),
    created_at(),
    one_of("kind", LEDGER_KINDS),
    CheckConstraint(
        "amount <> 0 AND CASE WHEN kind IN ('grant', 'refund') THEN amount > 0"
        " WHEN kind IN ('usage', 'expiry', 'clawback') THEN amount < 0 ELSE true END",
        name="amount_sign",
    ),
    # A user's ledger, newest first, by cursor; and its sum by an index-only scan.
    Index("ix_credit_ledger_user_id_id", "user_id", "id", postgresql_include=["amount"]),
    # What has moved since the end of a month.
    Index("ix_credit_ledger_created_at", "created_at", postgresql_using="brin"),
    Index("ix_credit_ledger_grant_id", "grant_id", postgresql_where=text("grant_id IS NOT NULL")),
    comment="Every movement of credits. Append-only: a trigger refuses UPDATE, DELETE and TRUNCATE",
)
