"""The history of what payment providers call the prices of plans; another provider needs no migration any more."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
serves_from = "0009"
is_needed = True

_TABLES_WITH_PROVIDER = (
    "subscriptions",
    "provider_customers",
    "invoices",
    "payment_transactions",
    "webhook_events",
    "checkouts",
    "provider_objects",
)

_CREATE = (
    """
    CREATE TABLE plan_provider_prices (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        plan_id TEXT NOT NULL,
        provider TEXT NOT NULL,
        kind TEXT NOT NULL,
        external_id TEXT NOT NULL,
        valid_from TIMESTAMPTZ DEFAULT now() NOT NULL,
        valid_to TIMESTAMPTZ,
        first_version BIGINT NOT NULL,
        last_version BIGINT,
        CONSTRAINT pk_plan_provider_prices PRIMARY KEY (id),
        CONSTRAINT ck_plan_provider_prices_provider CHECK (provider ~ '^[a-z][a-z0-9_]*$'),
        CONSTRAINT ck_plan_provider_prices_kind CHECK (kind IN ('price', 'product')),
        CONSTRAINT ck_plan_provider_prices_ends_with_a_version CHECK ((valid_to IS NULL) = (last_version IS NULL)),
        CONSTRAINT ck_plan_provider_prices_versions_in_order CHECK (first_version <= last_version),
        CONSTRAINT fk_plan_provider_prices_plan_id
            FOREIGN KEY (plan_id) REFERENCES subscription_plans (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE UNIQUE INDEX uq_plan_provider_prices_current ON plan_provider_prices (plan_id, provider, kind)
        WHERE valid_to IS NULL
    """,
    """
    CREATE UNIQUE INDEX uq_plan_provider_prices_external_id ON plan_provider_prices (provider, external_id)
        WHERE kind = 'price'
    """,
    """
    COMMENT ON TABLE plan_provider_prices IS
        'What payment providers call the price and product of a plan, now and formerly'
    """,
    "COMMENT ON COLUMN plan_provider_prices.external_id IS 'The provider''s id of it'",
    "COMMENT ON COLUMN plan_provider_prices.valid_to IS 'NULL: the plan has it now'",
    "COMMENT ON COLUMN plan_provider_prices.first_version IS 'The first version of the plan that had it'",
    """
    COMMENT ON COLUMN plan_provider_prices.last_version IS
        'The last version of the plan that had it; NULL: the present one'
    """,
)

# The columns say what is valid now, the versions of the plans what was valid before.
_FILL = (
    """
    CREATE TEMPORARY TABLE plan_ids ON COMMIT DROP AS
    SELECT v.plan_id, field.provider, field.kind, v.terms ->> field.name AS external_id, v.version, v.created_at
      FROM plan_versions v
     CROSS JOIN (VALUES ('stripe', 'price', 'stripe_price_id'),
                        ('lemon_squeezy', 'price', 'lemon_squeezy_variant_id'),
                        ('lemon_squeezy', 'product', 'lemon_squeezy_product_id')) field (provider, kind, name)
     WHERE v.terms ->> field.name IS NOT NULL
    """,
    """
    INSERT INTO plan_provider_prices (plan_id, provider, kind, external_id, valid_from, first_version)
    SELECT p.id, field.provider, field.kind, field.external_id,
           coalesce(min(i.created_at), p.created_at), coalesce(min(i.version), p.version)
      FROM subscription_plans p
     CROSS JOIN LATERAL (VALUES ('stripe', 'price', p.stripe_price_id),
                                ('lemon_squeezy', 'price', p.lemon_squeezy_variant_id),
                                ('lemon_squeezy', 'product', p.lemon_squeezy_product_id))
                        field (provider, kind, external_id)
      LEFT JOIN plan_ids i ON i.plan_id = p.id AND i.provider = field.provider AND i.kind = field.kind
                          AND i.external_id = field.external_id
     WHERE field.external_id IS NOT NULL
     GROUP BY p.id, field.provider, field.kind, field.external_id
    """,
    # Of two plans that had the same id the later one has it, since an id belongs to one plan from now on.
    """
    INSERT INTO plan_provider_prices
           (plan_id, provider, kind, external_id, valid_from, valid_to, first_version, last_version)
    SELECT i.plan_id, i.provider, i.kind, i.external_id, min(i.created_at),
           coalesce((SELECT min(v.created_at) FROM plan_versions v
                      WHERE v.plan_id = i.plan_id AND v.version > max(i.version)), now()),
           min(i.version), max(i.version)
      FROM plan_ids i
     WHERE NOT EXISTS (SELECT FROM plan_provider_prices r
                        WHERE r.plan_id = i.plan_id AND r.provider = i.provider AND r.kind = i.kind
                          AND r.external_id = i.external_id)
     GROUP BY i.plan_id, i.provider, i.kind, i.external_id
     ORDER BY max(i.created_at) DESC
    ON CONFLICT DO NOTHING
    """,
)

_MIRRORS = ("stripe_price_id", "lemon_squeezy_variant_id", "lemon_squeezy_product_id")


def upgrade() -> None:
    for statement in (*_CREATE, *_FILL):
        op.get_bind().exec_driver_sql(statement)
    for name in _MIRRORS:
        op.get_bind().exec_driver_sql(
            f"COMMENT ON COLUMN subscription_plans.{name} IS 'Mirror of plan_provider_prices, for version 0.1'"
        )
    for name in _MIRRORS[:2]:
        op.get_bind().exec_driver_sql(f"ALTER TABLE subscription_plans DROP CONSTRAINT uq_subscription_plans_{name}")
    _check_provider("provider ~ '^[a-z][a-z0-9_]*$'")


def downgrade() -> None:
    """The former price ids are lost."""
    _check_provider("provider IN ('stripe', 'lemon_squeezy', 'manual')")
    for name in _MIRRORS[:2]:
        op.get_bind().exec_driver_sql(
            f"ALTER TABLE subscription_plans ADD CONSTRAINT uq_subscription_plans_{name} UNIQUE ({name})"
        )
    for name in _MIRRORS:
        op.get_bind().exec_driver_sql(f"COMMENT ON COLUMN subscription_plans.{name} IS NULL")
    op.get_bind().exec_driver_sql("DROP TABLE plan_provider_prices")


def _check_provider(condition: str) -> None:
    for table in _TABLES_WITH_PROVIDER:
        name = f"ck_{table}_provider"
        op.get_bind().exec_driver_sql(
            f"ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} CHECK ({condition})"
        )
