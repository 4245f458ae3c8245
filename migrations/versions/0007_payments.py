"""Checkouts, gapless invoices that nobody changes, and how fresh what we know of a provider's object is."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
serves_from = "0007"
is_needed = True

_PROVIDER = "CHECK (provider IN ('stripe', 'lemon_squeezy', 'manual'))"

CHECKOUTS = (
    f"""
    CREATE TABLE checkouts (
        id UUID NOT NULL,
        user_id UUID NOT NULL,
        provider TEXT NOT NULL,
        provider_checkout_id TEXT,
        status TEXT DEFAULT 'open' NOT NULL,
        subscription_id UUID,
        pack_id TEXT,
        credits BIGINT DEFAULT 0 NOT NULL,
        price_id TEXT NOT NULL,
        price NUMERIC NOT NULL,
        currency TEXT DEFAULT 'USD' NOT NULL,
        url TEXT,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_checkouts PRIMARY KEY (id),
        CONSTRAINT ck_checkouts_provider {_PROVIDER},
        CONSTRAINT ck_checkouts_status CHECK (status IN ('open', 'completed', 'expired')),
        CONSTRAINT ck_checkouts_currency_iso_4217 CHECK (currency ~ '^[A-Z]{{3}}$'),
        CONSTRAINT ck_checkouts_credits_not_negative CHECK (credits >= 0),
        CONSTRAINT ck_checkouts_price_not_negative CHECK (price >= 0),
        CONSTRAINT ck_checkouts_buys_one_thing CHECK ((subscription_id IS NULL) <> (pack_id IS NULL)),
        CONSTRAINT fk_checkouts_user_id FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE RESTRICT,
        CONSTRAINT fk_checkouts_subscription_id
            FOREIGN KEY (subscription_id) REFERENCES subscriptions (id) ON DELETE RESTRICT
    )
    """,
    "CREATE INDEX ix_checkouts_user_id_created_at ON checkouts (user_id, created_at)",
    "CREATE INDEX ix_checkouts_subscription_id ON checkouts (subscription_id)",
    "COMMENT ON TABLE checkouts IS 'What a user was sent to a provider to pay for'",
    """
    COMMENT ON COLUMN checkouts.pack_id IS
        'Of a pack of credits, whose terms are kept as they were when it was offered'
    """,
    "COMMENT ON COLUMN checkouts.price_id IS 'The provider''s name for what is bought'",
)

PROVIDER_OBJECTS = (
    f"""
    CREATE TABLE provider_objects (
        provider TEXT NOT NULL,
        kind TEXT NOT NULL,
        object_id TEXT NOT NULL,
        fetched_at TIMESTAMPTZ NOT NULL,
        CONSTRAINT pk_provider_objects PRIMARY KEY (provider, kind, object_id),
        CONSTRAINT ck_provider_objects_provider {_PROVIDER}
    )
    """,
    """
    COMMENT ON TABLE provider_objects IS
        'When what we hold of a provider''s object was fetched: what was fetched before is not taken any more'
    """,
    "COMMENT ON COLUMN provider_objects.fetched_at IS 'By the database''s clock, before the provider was asked'",
    """
    CREATE TABLE billing_cursors (
        name TEXT NOT NULL,
        position JSONB NOT NULL,
        updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_billing_cursors PRIMARY KEY (name)
    )
    """,
    "COMMENT ON TABLE billing_cursors IS 'How far the walks through providers and usage have got'",
    """
    CREATE TABLE usage_reports (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        subscription_id UUID NOT NULL,
        day DATE NOT NULL,
        used_at TIMESTAMPTZ NOT NULL,
        identifier TEXT NOT NULL,
        credits_used BIGINT NOT NULL,
        attempted_at TIMESTAMPTZ,
        reported_at TIMESTAMPTZ,
        error_message TEXT,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_usage_reports PRIMARY KEY (id),
        CONSTRAINT uq_usage_reports_identifier UNIQUE (identifier),
        CONSTRAINT ck_usage_reports_credits_used_positive CHECK (credits_used > 0),
        CONSTRAINT fk_usage_reports_subscription_id
            FOREIGN KEY (subscription_id) REFERENCES subscriptions (id) ON DELETE RESTRICT
    )
    """,
    "CREATE INDEX ix_usage_reports_subscription_id_day ON usage_reports (subscription_id, day)",
    """
    CREATE INDEX ix_usage_reports_unsent ON usage_reports (id)
        WHERE reported_at IS NULL AND error_message IS NULL
    """,
    """
    COMMENT ON TABLE usage_reports IS
        'Usage that a provider bills by: written down first, then sent until it has arrived'
    """,
    "COMMENT ON COLUMN usage_reports.day IS 'Of UTC, that the usage is of'",
    "COMMENT ON COLUMN usage_reports.used_at IS 'The last of it'",
    "COMMENT ON COLUMN usage_reports.identifier IS 'What the provider tells repetitions by'",
    "COMMENT ON COLUMN usage_reports.attempted_at IS 'When it was first sent, or was about to be'",
    "COMMENT ON COLUMN usage_reports.error_message IS 'Set: it will not be sent again'",
)

INVOICES = (
    """
    CREATE TABLE invoice_numbers (
        id SMALLINT DEFAULT 1 NOT NULL,
        last_number BIGINT NOT NULL,
        CONSTRAINT pk_invoice_numbers PRIMARY KEY (id),
        CONSTRAINT ck_invoice_numbers_one_row CHECK (id = 1),
        CONSTRAINT ck_invoice_numbers_last_number_not_negative CHECK (last_number >= 0)
    )
    """,
    """
    COMMENT ON TABLE invoice_numbers IS
        'One row: the last number given. Its lock is held to the end of the transaction, so there are no gaps'
    """,
    "INSERT INTO invoice_numbers (last_number) SELECT coalesce(max(number), 0) FROM invoices",
    """
    ALTER TABLE invoices
        ADD COLUMN provider_number TEXT,
        ADD COLUMN url TEXT,
        ADD COLUMN tax_rate NUMERIC DEFAULT 0 NOT NULL,
        ADD COLUMN corrects_id UUID
            CONSTRAINT fk_invoices_corrects_id REFERENCES invoices (id) ON DELETE RESTRICT
            CONSTRAINT uq_invoices_corrects_id UNIQUE,
        DROP CONSTRAINT ck_invoices_numbered_when_issued,
        ADD CONSTRAINT ck_invoices_numbered_when_issued
            CHECK (status = 'draft' OR number IS NOT NULL OR provider <> 'manual')
    """,
    """
    CREATE UNIQUE INDEX uq_invoices_subscription_id_period_start ON invoices (subscription_id, period_start)
        WHERE provider = 'manual' AND corrects_id IS NULL AND status <> 'void'
    """,
    """
    COMMENT ON TABLE invoices IS
        'What was asked for. A trigger refuses to change or delete what has been issued; a credit note corrects it'
    """,
    """
    COMMENT ON COLUMN invoices.provider_number IS
        'The number the provider gave its own invoice, which has none of ours'
    """,
    "COMMENT ON COLUMN invoices.url IS 'The provider''s page of it'",
    "COMMENT ON COLUMN invoices.tax_rate IS 'A fraction: 0.19 is 19 %'",
    # What became of an issued invoice may be noted: that it was paid, is void, will not be paid. Nothing else.
    """
    CREATE FUNCTION refuse_to_change_issued_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        noted text[] := ARRAY['status', 'paid_at', 'updated_at', 'url', 'metadata'];
    BEGIN
        IF OLD.status = 'draft' THEN
            RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
        END IF;
        IF TG_OP = 'UPDATE' AND NEW.status <> 'draft' AND to_jsonb(NEW) - noted = to_jsonb(OLD) - noted THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'an issued invoice is final' USING ERRCODE = 'integrity_constraint_violation';
    END
    $$
    """,
    """
    CREATE TRIGGER final_when_issued BEFORE UPDATE OR DELETE ON invoices
        FOR EACH ROW EXECUTE FUNCTION refuse_to_change_issued_invoice()
    """,
)

PAYMENTS = (
    """
    ALTER TABLE payment_transactions
        ADD COLUMN credits_withdrawn BIGINT DEFAULT 0 NOT NULL
            CONSTRAINT ck_payment_transactions_credits_withdrawn_not_negative CHECK (credits_withdrawn >= 0),
        ADD COLUMN grant_id UUID
            CONSTRAINT fk_payment_transactions_grant_id REFERENCES credit_grants (id) ON DELETE RESTRICT,
        ADD COLUMN refers_to_id UUID
            CONSTRAINT fk_payment_transactions_refers_to_id
            REFERENCES payment_transactions (id) ON DELETE RESTRICT
    """,
    """
    COMMENT ON COLUMN payment_transactions.credits_withdrawn IS
        'Of those awarded, taken back for refunds and disputes'
    """,
    "COMMENT ON COLUMN payment_transactions.refers_to_id IS 'The payment that a refund or dispute is of'",
    "CREATE INDEX ix_payment_transactions_refers_to_id ON payment_transactions (refers_to_id)",
)


def upgrade() -> None:
    for statement in (*CHECKOUTS, *PROVIDER_OBJECTS, *INVOICES, *PAYMENTS):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Invoices that a provider numbered have no number of ours, so they go."""
    for statement in (
        """
        ALTER TABLE payment_transactions
            DROP COLUMN credits_withdrawn, DROP COLUMN grant_id, DROP COLUMN refers_to_id
        """,
        "DROP TRIGGER final_when_issued ON invoices",
        "DROP FUNCTION refuse_to_change_issued_invoice",
        "DROP INDEX uq_invoices_subscription_id_period_start",
        """
        UPDATE payment_transactions SET invoice_id = NULL
         WHERE invoice_id IN (SELECT id FROM invoices WHERE number IS NULL AND status <> 'draft')
        """,
        "DELETE FROM invoices WHERE number IS NULL AND status <> 'draft'",
        """
        ALTER TABLE invoices
            DROP CONSTRAINT ck_invoices_numbered_when_issued,
            ADD CONSTRAINT ck_invoices_numbered_when_issued CHECK (status = 'draft' OR number IS NOT NULL),
            DROP COLUMN provider_number, DROP COLUMN url, DROP COLUMN tax_rate, DROP COLUMN corrects_id
        """,
        "COMMENT ON TABLE invoices IS 'What was asked for; an issued invoice is never deleted'",
        "DROP TABLE invoice_numbers",
        "DROP TABLE usage_reports",
        "DROP TABLE billing_cursors",
        "DROP TABLE provider_objects",
        "DROP TABLE checkouts",
    ):
        op.get_bind().exec_driver_sql(statement)
