"""Automatic top-ups: what customers agreed to, and the payments that were made."""

from __future__ import annotations

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None
serves_from = "0020"
is_needed = True

_TABLES = (
    """
    CREATE TABLE top_up_settings (
        user_id UUID NOT NULL,
        provider TEXT NOT NULL,
        status TEXT NOT NULL,
        threshold BIGINT NOT NULL,
        pack_id TEXT NOT NULL,
        price NUMERIC NOT NULL,
        currency TEXT DEFAULT 'USD' NOT NULL,
        daily_limit NUMERIC NOT NULL,
        monthly_limit NUMERIC NOT NULL,
        payment_method_id TEXT,
        payment_method TEXT,
        setup_checkout_id TEXT,
        stopped_reason TEXT,
        stopped_at TIMESTAMPTZ,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_top_up_settings PRIMARY KEY (user_id),
        CONSTRAINT fk_top_up_settings_user_id FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE RESTRICT,
        CONSTRAINT ck_top_up_settings_provider CHECK (provider ~ '^[a-z][a-z0-9_]*$'),
        CONSTRAINT ck_top_up_settings_status CHECK (status IN ('off', 'awaiting_card', 'on', 'stopped')),
        CONSTRAINT ck_top_up_settings_currency_iso_4217 CHECK (currency ~ '^[A-Z]{3}$'),
        CONSTRAINT ck_top_up_settings_threshold_not_negative CHECK (threshold >= 0),
        CONSTRAINT ck_top_up_settings_price_positive CHECK (price > 0),
        CONSTRAINT ck_top_up_settings_daily_limit_positive CHECK (daily_limit > 0),
        CONSTRAINT ck_top_up_settings_monthly_limit_positive CHECK (monthly_limit > 0),
        CONSTRAINT ck_top_up_settings_on_with_a_card CHECK (status <> 'on' OR payment_method_id IS NOT NULL),
        CONSTRAINT ck_top_up_settings_stopped_at_a_time CHECK ((status = 'stopped') = (stopped_at IS NOT NULL))
    )
    """,
    "CREATE INDEX ix_top_up_settings_on ON top_up_settings (user_id) WHERE status = 'on'",
    """
    CREATE INDEX ix_top_up_settings_payment_method_id ON top_up_settings (payment_method_id)
     WHERE payment_method_id IS NOT NULL
    """,
    """
    CREATE TABLE top_ups (
        id UUID NOT NULL,
        user_id UUID NOT NULL,
        checkout_id UUID NOT NULL,
        payment_method_id TEXT NOT NULL,
        status TEXT DEFAULT 'pending' NOT NULL,
        price NUMERIC NOT NULL,
        currency TEXT DEFAULT 'USD' NOT NULL,
        attempts INTEGER DEFAULT 0 NOT NULL,
        due_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        settled_at TIMESTAMPTZ,
        error_message TEXT,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_top_ups PRIMARY KEY (id),
        CONSTRAINT fk_top_ups_user_id FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE RESTRICT,
        CONSTRAINT fk_top_ups_checkout_id FOREIGN KEY (checkout_id) REFERENCES checkouts (id) ON DELETE RESTRICT,
        CONSTRAINT ck_top_ups_status CHECK (status IN ('pending', 'completed', 'failed')),
        CONSTRAINT ck_top_ups_currency_iso_4217 CHECK (currency ~ '^[A-Z]{3}$'),
        CONSTRAINT ck_top_ups_price_positive CHECK (price > 0),
        CONSTRAINT ck_top_ups_attempts_not_negative CHECK (attempts >= 0),
        CONSTRAINT ck_top_ups_settled_unless_pending CHECK ((status = 'pending') = (settled_at IS NULL))
    )
    """,
    "CREATE UNIQUE INDEX uq_top_ups_checkout_id ON top_ups (checkout_id)",
    "CREATE UNIQUE INDEX uq_top_ups_pending ON top_ups (user_id) WHERE status = 'pending'",
    "CREATE INDEX ix_top_ups_user_id_created_at ON top_ups (user_id, created_at)",
)

_COMMENTS = {
    "TABLE top_up_settings": "What customers agreed to be charged by themselves when their credits run low",
    "COLUMN top_up_settings.threshold": "The balance in credits below which it tops up",
    "COLUMN top_up_settings.price": "Of the pack when the customer agreed to it; at another price it stops",
    "COLUMN top_up_settings.daily_limit": "In UTC, as the monthly one",
    "COLUMN top_up_settings.payment_method_id": "The provider''s id of the saved card",
    "COLUMN top_up_settings.payment_method": "Such as visa 4242",
    "COLUMN top_up_settings.setup_checkout_id": "Where the customer was last sent to save a card",
    "TABLE top_ups": "Payments that top-ups made; the checkout names what each bought",
    "COLUMN top_ups.due_at": "When the provider is asked again",
}


def upgrade() -> None:
    for statement in _TABLES:
        op.get_bind().exec_driver_sql(statement)
    for what, comment in _COMMENTS.items():
        op.get_bind().exec_driver_sql(f"COMMENT ON {what} IS '{comment}'")


def downgrade() -> None:
    op.drop_table("top_ups")
    op.drop_table("top_up_settings")
