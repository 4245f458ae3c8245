"""Products, plans with their tiers and permissions, and the version of the catalogue."""

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
    SmallInteger,
    Table,
    Text,
    func,
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
    provider_column,
    provider_is_a_word,
    serial_column,
    updated_at,
    words,
)
from policies.model import PastDue

INTERVALS = ("day", "week", "month", "year")
EXPERIMENT_STATUSES = ("draft", "running", "stopped")
PRICING_MODELS = ("flat", "per_seat", "tiered", "volume", "usage")

LIMITS = (
    "requests_per_minute",
    "requests_per_hour",
    "max_api_calls_per_day",
    "max_products_per_batch",
    "max_concurrent_requests",
)

# Written along with plan_provider_prices, which this version reads; the next version drops them.
MIRRORED_IDS = ("stripe_price_id", "lemon_squeezy_variant_id", "lemon_squeezy_product_id")

products = Table(
    "products",
    metadata,
    id_column(),
    Column("name", Text, nullable=False, unique=True),
    Column("description", Text),
    Column("is_active", Boolean, nullable=False, server_default=text("true")),
    metadata_column(),
    created_at(),
    updated_at(),
    comment="Products, which group plans",
)

subscription_plans = Table(
    "subscription_plans",
    metadata,
    Column("id", Text, primary_key=True, comment="A word such as pro, set at creation and never changed"),
    Column("product_id", PG_UUID(as_uuid=True), ForeignKey("products.id", ondelete="RESTRICT")),
    Column("name", Text, nullable=False, unique=True),
    Column("description", Text),
    Column(
        "version", BigInteger, nullable=False, server_default=text("1"), comment="Grows with every change of the plan"
    ),
    money("price", comment="Per billing interval"),
    currency_column(),
    Column("pricing_model", Text, nullable=False, server_default=text("'flat'")),
    Column("billing_interval", Text, nullable=False, server_default=text("'month'")),
    Column("billing_interval_count", Integer, nullable=False, server_default=text("1")),
    Column("trial_period_days", Integer, nullable=False, server_default=text("0")),
    credits_column("credits_per_period"),
    Column(
        "credits_rollover",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Whether unused credits of a period roll over",
    ),
    *(Column(name, Integer, comment="NULL: no limit") for name in LIMITS),
    Column("max_file_size_bytes", BigInteger, comment="NULL: no limit"),
    Column("max_credits_per_call", BigInteger, comment="The most that one call is charged; NULL: no limit"),
    Column("tiers_mode", Text, comment="How tiers price usage; NULL: the pricing model says it, or there are none"),
    Column("overage_credits", BigInteger, comment="How far below zero a balance may go; NULL: nothing is postpaid"),
    Column("overage_price", Numeric, comment="Of a credit below zero; NULL: the plan bills all usage"),
    Column("overage_stripe_price_id", Text, comment="The metered price at Stripe that bills them"),
    Column(
        "features",
        JSONB,
        nullable=False,
        server_default=text("'{}'::jsonb"),
        comment="Feature name -> true, or a number or word for the upstream",
    ),
    *(Column(name, Text, comment="Mirror of plan_provider_prices, for version 0.1") for name in MIRRORED_IDS),
    Column("is_active", Boolean, nullable=False, server_default=text("true"), comment="False: no new subscriptions"),
    Column("sort_order", Integer, nullable=False, server_default=text("0")),
    Column(
        "past_due",
        Word(PastDue),
        nullable=False,
        server_default=text("'purchased_only'"),
        comment="What it gives from a failed renewal to its payment: everything, no credits of the period, or nothing",
    ),
    Column(
        "fallback_plan",
        Text,
        # Deferred, so that plans can be created in any order.
        ForeignKey("subscription_plans.id", ondelete="SET NULL", deferrable=True, initially="DEFERRED"),
        comment="The plan that holds once a subscription has ended; NULL: none",
    ),
    metadata_column(),
    created_at(),
    updated_at(),
    iso_4217(),
    one_of("pricing_model", PRICING_MODELS),
    one_of("past_due", PastDue),
    one_of("billing_interval", INTERVALS),
    one_of("tiers_mode", ("graduated", "volume")),
    CheckConstraint("overage_price IS NULL OR overage_credits IS NOT NULL", name="overage_price_has_credits"),
    *positive("overage_credits"),
    # The pattern of gateway.yaml; such an id needs no escaping in paths, labels and journal lines.
    CheckConstraint("id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'", name="id_is_a_word"),
    CheckConstraint("jsonb_typeof(features) = 'object'", name="features_is_an_object"),
    *positive("billing_interval_count", "max_credits_per_call"),
    *not_negative("price", "trial_period_days", "credits_per_period", *LIMITS, "max_file_size_bytes", "overage_price"),
    Index("ix_subscription_plans_product_id", "product_id"),
    comment="Plans with price, credits, limits and features; a NULL limit is no limit",
)

plan_provider_prices = Table(
    "plan_provider_prices",
    metadata,
    serial_column(),
    Column("plan_id", Text, ForeignKey("subscription_plans.id", ondelete="CASCADE"), nullable=False),
    provider_column(),
    Column("kind", Text, nullable=False),
    Column("external_id", Text, nullable=False, comment="The provider's id of it"),
    moment("valid_from", nullable=False, server_default=func.now()),
    moment("valid_to", comment="NULL: the plan has it now"),
    Column("first_version", BigInteger, nullable=False, comment="The first version of the plan that had it"),
    Column("last_version", BigInteger, comment="The last version of the plan that had it; NULL: the present one"),
    one_of("kind", ("price", "product")),
    provider_is_a_word(),
    CheckConstraint("(valid_to IS NULL) = (last_version IS NULL)", name="ends_with_a_version"),
    CheckConstraint("first_version <= last_version", name="versions_in_order"),
    Index(
        "uq_plan_provider_prices_current",
        "plan_id",
        "provider",
        "kind",
        unique=True,
        postgresql_where=text("valid_to IS NULL"),
    ),
    # Former ids included, so that each names one plan for ever. Plans may share a product.
    Index(
        "uq_plan_provider_prices_external_id",
        "provider",
        "external_id",
        unique=True,
        postgresql_where=text("kind = 'price'"),
    ),
    comment="Ids of a plan's price and product at payment providers, with their history",
)

plan_versions = Table(
    "plan_versions",
    metadata,
    Column("plan_id", Text, ForeignKey("subscription_plans.id", ondelete="CASCADE"), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("terms", JSONB, nullable=False, comment="The row of subscription_plans as it was"),
    Column("tiers", JSONB, nullable=False, server_default=text("'[]'::jsonb"), comment="Sorted by up_to"),
    Column("permissions", words(), nullable=False, server_default=text("'{}'"), comment="By name"),
    created_at(),
    comment="The versions of plans; subscriptions with keeps_version are on one of them",
)

pricing_tiers = Table(
    "pricing_tiers",
    metadata,
    id_column(),
    Column("plan_id", Text, ForeignKey("subscription_plans.id", ondelete="CASCADE"), nullable=False),
    Column("up_to", BigInteger, comment="The last unit of the tier; NULL: no upper bound"),
    money("unit_price"),
    money("flat_price", server_default=text("0")),
    created_at(),
    *positive("up_to"),
    *not_negative("unit_price", "flat_price"),
    # One open-ended tier per plan, since NULLs count as equal. Also reads a plan's tiers in order.
    Index("uq_pricing_tiers_plan_id_up_to", "plan_id", text(f"coalesce(up_to, {2**63 - 1})"), unique=True),
    comment="Price tiers of plans with tiered or volume pricing",
)

permissions = Table(
    "permissions",
    metadata,
    id_column(),
    Column("name", Text, nullable=False, unique=True),
    Column("description", Text),
    created_at(),
    comment="Permissions that routes require",
)

plan_permissions = Table(
    "plan_permissions",
    metadata,
    Column("plan_id", Text, ForeignKey("subscription_plans.id", ondelete="CASCADE"), primary_key=True),
    Column("permission_id", PG_UUID(as_uuid=True), ForeignKey("permissions.id", ondelete="CASCADE"), primary_key=True),
    created_at(),
    # The plans that grant a permission.
    Index("ix_plan_permissions_permission_id", "permission_id"),
    comment="Permissions that plans grant",
)

catalogue = Table(
    "catalogue",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False, server_default=text("1")),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
    comment="One row: the version of all plans and permissions, bumped with every change of any",
)

experiments = Table(
    "experiments",
    metadata,
    id_column(),
    Column("name", Text, nullable=False, unique=True),
    Column(
        "salt",
        Text,
        nullable=False,
        comment="Hashed with the id of an account; another salt shares accounts out otherwise",
    ),
    Column("variants", JSONB, nullable=False, comment="Each with name, weight and plans, the control first"),
    Column("status", Text, nullable=False, server_default=text("'draft'")),
    moment("started_at"),
    moment("stopped_at"),
    Column("winner", Text, comment="The variant whose plans stayed on sale; NULL: those of all"),
    created_at(),
    updated_at(),
    one_of("status", EXPERIMENT_STATUSES),
    CheckConstraint("(status = 'draft') = (started_at IS NULL)", name="started_unless_draft"),
    CheckConstraint("(status = 'stopped') = (stopped_at IS NOT NULL)", name="stopped_at_its_end"),
    CheckConstraint("jsonb_typeof(variants) = 'array'", name="variants_are_a_list"),
    comment="Which plans are offered to whom; accounts are shared out by a hash, so none is stored",
)
