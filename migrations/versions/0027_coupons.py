"""Coupons, and their redemptions at checkouts. The release before sells without them."""

from __future__ import annotations

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None
serves_from = "0020"
is_needed = True

_TABLES = (
    """
    CREATE TABLE coupons (
        id UUID NOT NULL,
        code TEXT NOT NULL,
        description TEXT,
        percent_off NUMERIC,
        amount_off NUMERIC,
        currency TEXT,
        bonus_credits BIGINT,
        periods INTEGER DEFAULT 1 NOT NULL,
        plans TEXT[],
        packs TEXT[],
        max_redemptions INTEGER,
        once_per_account BOOLEAN DEFAULT true NOT NULL,
        expires_at TIMESTAMPTZ,
        is_active BOOLEAN DEFAULT true NOT NULL,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_coupons PRIMARY KEY (id),
        CONSTRAINT uq_coupons_code UNIQUE (code),
        CONSTRAINT ck_coupons_currency_iso_4217 CHECK (currency ~ '^[A-Z]{3}$'),
        CONSTRAINT ck_coupons_code_is_a_word CHECK (code ~ '^[A-Z0-9][A-Z0-9-]{2,39}$'),
        CONSTRAINT ck_coupons_gives_one_thing CHECK (num_nonnulls(percent_off, amount_off, bonus_credits) = 1),
        CONSTRAINT ck_coupons_amount_has_currency CHECK ((amount_off IS NULL) = (currency IS NULL)),
        CONSTRAINT ck_coupons_percent_off_at_most_all CHECK (percent_off <= 100),
        CONSTRAINT ck_coupons_percent_off_positive CHECK (percent_off > 0),
        CONSTRAINT ck_coupons_amount_off_positive CHECK (amount_off > 0),
        CONSTRAINT ck_coupons_bonus_credits_positive CHECK (bonus_credits > 0),
        CONSTRAINT ck_coupons_periods_positive CHECK (periods > 0),
        CONSTRAINT ck_coupons_max_redemptions_positive CHECK (max_redemptions > 0)
    )
    """,
    """
    CREATE TABLE coupon_redemptions (
        id UUID NOT NULL,
        coupon_id UUID NOT NULL,
        user_id UUID NOT NULL,
        checkout_id UUID NOT NULL,
        status TEXT DEFAULT 'reserved' NOT NULL,
        discount NUMERIC DEFAULT 0 NOT NULL,
        currency TEXT DEFAULT 'USD' NOT NULL,
        bonus_credits BIGINT DEFAULT 0 NOT NULL,
        reserved_until TIMESTAMPTZ,
        redeemed_at TIMESTAMPTZ,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_coupon_redemptions PRIMARY KEY (id),
        CONSTRAINT fk_coupon_redemptions_coupon_id FOREIGN KEY (coupon_id) REFERENCES coupons (id) ON DELETE RESTRICT,
        CONSTRAINT fk_coupon_redemptions_user_id FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE RESTRICT,
        CONSTRAINT fk_coupon_redemptions_checkout_id
            FOREIGN KEY (checkout_id) REFERENCES checkouts (id) ON DELETE RESTRICT,
        CONSTRAINT ck_coupon_redemptions_status CHECK (status IN ('reserved', 'redeemed', 'released')),
        CONSTRAINT ck_coupon_redemptions_currency_iso_4217 CHECK (currency ~ '^[A-Z]{3}$'),
        CONSTRAINT ck_coupon_redemptions_discount_not_negative CHECK (discount >= 0),
        CONSTRAINT ck_coupon_redemptions_bonus_credits_not_negative CHECK (bonus_credits >= 0),
        CONSTRAINT ck_coupon_redemptions_redeemed_at_a_time CHECK ((status = 'redeemed') = (redeemed_at IS NOT NULL))
    )
    """,
    "CREATE UNIQUE INDEX uq_coupon_redemptions_checkout_id ON coupon_redemptions (checkout_id)",
    """
    CREATE INDEX ix_coupon_redemptions_counted ON coupon_redemptions (coupon_id, user_id) WHERE status <> 'released'
    """,
    "CREATE INDEX ix_coupon_redemptions_user_id_created_at ON coupon_redemptions (user_id, created_at)",
)

_COMMENTS = {
    "TABLE coupons": "What customers enter at a checkout to pay less, or to get more credits",
    "COLUMN coupons.code": "What customers enter, in capitals",
    "COLUMN coupons.amount_off": "In the currency of the coupon",
    "COLUMN coupons.bonus_credits": "Come with a pack, and are a part of what was bought",
    "COLUMN coupons.periods": "Of a plan, from the first payment on",
    "COLUMN coupons.plans": "By id; NULL: every plan",
    "COLUMN coupons.packs": "By id; NULL: every pack",
    "COLUMN coupons.max_redemptions": "Of all accounts; NULL: no limit",
    "TABLE coupon_redemptions": "Who used which coupon at which checkout",
    "COLUMN coupon_redemptions.discount": "Off one payment, as it was offered",
    "COLUMN coupon_redemptions.reserved_until": "NULL: until the provider tells what became of the checkout",
}


def upgrade() -> None:
    for statement in _TABLES:
        op.get_bind().exec_driver_sql(statement)
    for what, comment in _COMMENTS.items():
        op.get_bind().exec_driver_sql(f"COMMENT ON {what} IS '{comment}'")


def downgrade() -> None:
    op.drop_table("coupon_redemptions")
    op.drop_table("coupons")
