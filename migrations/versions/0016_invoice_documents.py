"""Invoices that keep seller, buyer and terms as they were; credit notes in part; time that is still to be invoiced."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None
serves_from = "0016"
is_needed = True

_FINAL = """
    CREATE OR REPLACE FUNCTION refuse_to_change_issued_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        noted text[] := ARRAY[{columns}];
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
"""
_NOTED_BEFORE = "'status', 'paid_at', 'updated_at', 'url', 'metadata'"
_NOTED = f"{_NOTED_BEFORE}, 'amount_paid', 'amount_credited'"

_COLUMNS = (
    "ALTER TABLE users ADD COLUMN billing_address TEXT, ADD COLUMN vat_id TEXT",
    "COMMENT ON COLUMN users.billing_address IS 'Lines of print, for invoices'",
    """
    ALTER TABLE invoices
        ADD COLUMN full_number TEXT CONSTRAINT uq_invoices_full_number UNIQUE,
        ADD COLUMN plan_id TEXT
            CONSTRAINT fk_invoices_plan_id REFERENCES subscription_plans (id) ON DELETE RESTRICT,
        ADD COLUMN seller JSONB,
        ADD COLUMN buyer JSONB,
        ADD COLUMN due_at TIMESTAMPTZ,
        ADD COLUMN reason TEXT,
        ADD COLUMN amount_paid NUMERIC DEFAULT 0 NOT NULL,
        ADD COLUMN amount_credited NUMERIC DEFAULT 0 NOT NULL,
        ADD CONSTRAINT ck_invoices_amount_paid_not_negative CHECK (amount_paid >= 0),
        ADD CONSTRAINT ck_invoices_credited_within_total
            CHECK (amount_credited >= 0 AND amount_credited <= greatest(total, 0)),
        DROP CONSTRAINT uq_invoices_corrects_id
    """,
    "CREATE INDEX ix_invoices_corrects_id ON invoices (corrects_id) WHERE corrects_id IS NOT NULL",
    "CREATE INDEX ix_invoices_plan_id ON invoices (plan_id)",
    "CREATE INDEX ix_invoices_issued_at ON invoices (issued_at)",
    "CREATE INDEX ix_invoices_created_at_id ON invoices (created_at, id)",
    "COMMENT ON COLUMN invoices.full_number IS 'The number as it is printed, with prefix and year'",
    "COMMENT ON COLUMN invoices.plan_id IS 'The plan at the time of issue'",
    "COMMENT ON COLUMN invoices.seller IS 'Name, address, tax id and bank at the time of issue'",
    "COMMENT ON COLUMN invoices.buyer IS 'Name, address and VAT id at the time of issue'",
    "COMMENT ON COLUMN invoices.reason IS 'Of a credit note'",
    "COMMENT ON COLUMN invoices.amount_credited IS 'The sum of its credit notes'",
)

# Invoices of before get the buyer as it is now: later than at issue, but it outlives the account from here on.
_FILL = (
    "ALTER TABLE invoices DISABLE TRIGGER final_when_issued",
    """
    UPDATE invoices i SET buyer = jsonb_strip_nulls(jsonb_build_object(
               'name', u.name, 'company', u.company, 'email', u.email, 'time_zone', u.time_zone))
      FROM users u
     WHERE u.id = i.user_id AND u.deleted_at IS NULL AND i.status <> 'draft' AND i.provider = 'manual'
    """,
    """
    UPDATE invoices i SET amount_credited = -n.total
      FROM invoices n WHERE n.corrects_id = i.id AND i.total > 0
    """,
    """
    UPDATE invoices SET status = 'paid', paid_at = CASE total WHEN 0 THEN issued_at END
     WHERE provider = 'manual' AND status = 'open' AND total = amount_credited
    """,
    """
    UPDATE invoices SET amount_paid = total - amount_credited
     WHERE provider = 'manual' AND status = 'paid' AND total > amount_credited
    """,
    "ALTER TABLE invoices ENABLE TRIGGER final_when_issued",
)

_SPANS = (
    """
    CREATE TABLE billing_spans (
        id UUID NOT NULL,
        subscription_id UUID NOT NULL,
        starts_at TIMESTAMPTZ NOT NULL,
        ends_at TIMESTAMPTZ NOT NULL,
        period_start TIMESTAMPTZ NOT NULL,
        period_end TIMESTAMPTZ NOT NULL,
        ends_period BOOLEAN NOT NULL,
        plan_id TEXT NOT NULL,
        quantity INTEGER NOT NULL,
        pricing JSONB NOT NULL,
        credits_used BIGINT DEFAULT 0 NOT NULL,
        credits_billed BIGINT,
        is_price_billed BOOLEAN DEFAULT false NOT NULL,
        buyer JSONB,
        invoice_id UUID,
        closed_at TIMESTAMPTZ,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_billing_spans PRIMARY KEY (id),
        CONSTRAINT ck_billing_spans_order CHECK (ends_at >= starts_at),
        CONSTRAINT ck_billing_spans_period_order CHECK (period_end > period_start),
        CONSTRAINT ck_billing_spans_quantity_positive CHECK (quantity > 0),
        CONSTRAINT ck_billing_spans_credits_used_not_negative CHECK (credits_used >= 0),
        CONSTRAINT ck_billing_spans_credits_billed_not_negative CHECK (credits_billed >= 0),
        CONSTRAINT fk_billing_spans_subscription_id
            FOREIGN KEY (subscription_id) REFERENCES subscriptions (id) ON DELETE RESTRICT,
        CONSTRAINT fk_billing_spans_plan_id
            FOREIGN KEY (plan_id) REFERENCES subscription_plans (id) ON DELETE RESTRICT,
        CONSTRAINT fk_billing_spans_invoice_id FOREIGN KEY (invoice_id) REFERENCES invoices (id) ON DELETE RESTRICT
    )
    """,
    """
    CREATE UNIQUE INDEX uq_billing_spans_period ON billing_spans (subscription_id, period_start) WHERE ends_period
    """,
    "CREATE INDEX ix_billing_spans_subscription_id_ends_at ON billing_spans (subscription_id, ends_at)",
    "CREATE INDEX ix_billing_spans_open ON billing_spans (ends_at) WHERE ends_period AND closed_at IS NULL",
    "CREATE INDEX ix_billing_spans_plan_id ON billing_spans (plan_id)",
    "CREATE INDEX ix_billing_spans_invoice_id ON billing_spans (invoice_id)",
    """
    COMMENT ON TABLE billing_spans IS
        'Ended stretches of time under the same terms, of subscriptions that no provider bills: what to invoice'
    """,
    "COMMENT ON COLUMN billing_spans.period_start IS 'The billing period that the span lies in'",
    "COMMENT ON COLUMN billing_spans.ends_period IS 'True: the period ends with it and is to be invoiced'",
    "COMMENT ON COLUMN billing_spans.pricing IS 'Name, model, price, currency and tiers of the plan in the span'",
    "COMMENT ON COLUMN billing_spans.credits_used IS 'Credits charged in it, as last counted'",
    "COMMENT ON COLUMN billing_spans.credits_billed IS 'Of those, the invoiced ones; NULL: never counted'",
    """
    COMMENT ON COLUMN billing_spans.is_price_billed IS
        'The price of its period is on an invoice of another period'
    """,
    "COMMENT ON COLUMN billing_spans.buyer IS 'For the last invoice of a deleted account; NULL afterwards'",
    "COMMENT ON COLUMN billing_spans.closed_at IS 'When its period was invoiced, or found to need no invoice'",
    # What invoices and drafts of before have counted ends here; spans go on from there.
    """
    INSERT INTO billing_spans (id, subscription_id, starts_at, ends_at, period_start, period_end, ends_period,
                               plan_id, quantity, pricing, credits_billed)
    SELECT gen_random_uuid(), s.id, counted.until, counted.until, s.current_period_start, s.current_period_end, false,
           s.plan_id, s.quantity, '{}', 0
      FROM subscriptions s
     CROSS JOIN LATERAL (SELECT greatest(s.current_period_start, max(coalesce(i.issued_at, i.created_at))) AS until
                           FROM invoices i
                          WHERE i.subscription_id = s.id AND i.provider = 'manual' AND i.corrects_id IS NULL
                            AND i.status <> 'void') counted
     WHERE s.provider = 'manual' AND s.status IN ('trialing', 'active', 'past_due', 'paused')
    """,
    # Usage that a draft was to count at its issue.
    """
    INSERT INTO billing_spans (id, subscription_id, starts_at, ends_at, period_start, period_end, ends_period,
                               plan_id, quantity, pricing)
    SELECT gen_random_uuid(), s.id, CAST(i.metadata ->> 'since' AS timestamptz),
           CAST(i.metadata ->> 'until' AS timestamptz), s.current_period_start, s.current_period_end, false,
           s.plan_id, s.quantity,
           jsonb_build_object('name', i.metadata ->> 'name', 'model', 'usage', 'currency', i.currency,
                              'price', i.metadata ->> 'unit_price')
      FROM invoices i JOIN subscriptions s ON s.id = i.subscription_id
     WHERE i.status = 'draft' AND i.provider = 'manual' AND i.metadata ? 'since'
    """,
    "UPDATE invoices SET metadata = metadata - 'since' - 'until' - 'unit_price' - 'name' WHERE status = 'draft'",
)


def upgrade() -> None:
    for statement in (*_COLUMNS, _FINAL.format(columns=_NOTED), *_FILL, *_SPANS):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Usage that is not invoiced yet is invoiced by no former release; later credit notes lose their invoice."""
    for statement in (
        "DROP TABLE billing_spans",
        "ALTER TABLE invoices DISABLE TRIGGER final_when_issued",
        """
        UPDATE invoices i SET corrects_id = NULL
         WHERE EXISTS (SELECT FROM invoices n WHERE n.corrects_id = i.corrects_id AND n.number < i.number)
        """,
        "ALTER TABLE invoices ENABLE TRIGGER final_when_issued",
        "DROP INDEX ix_invoices_corrects_id, ix_invoices_issued_at, ix_invoices_created_at_id",
        """
        ALTER TABLE invoices
            DROP COLUMN full_number, DROP COLUMN plan_id, DROP COLUMN seller, DROP COLUMN buyer, DROP COLUMN due_at,
            DROP COLUMN reason, DROP COLUMN amount_paid, DROP COLUMN amount_credited,
            ADD CONSTRAINT uq_invoices_corrects_id UNIQUE (corrects_id)
        """,
        _FINAL.format(columns=_NOTED_BEFORE),
        "ALTER TABLE users DROP COLUMN billing_address, DROP COLUMN vat_id",
    ):
        op.get_bind().exec_driver_sql(statement)
