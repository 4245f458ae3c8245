"""What subscriptions, plan versions and grants have to remember to be moved on time, once."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
serves_from = "0005"
is_needed = True

PLAN_VERSIONS = (
    """
    CREATE TABLE plan_versions (
        plan_id TEXT NOT NULL,
        version BIGINT NOT NULL,
        terms JSONB NOT NULL,
        tiers JSONB DEFAULT '[]'::jsonb NOT NULL,
        permissions TEXT[] DEFAULT '{}' NOT NULL,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_plan_versions PRIMARY KEY (plan_id, version),
        CONSTRAINT fk_plan_versions_plan_id
            FOREIGN KEY (plan_id) REFERENCES subscription_plans (id) ON DELETE CASCADE
    )
    """,
    """
    COMMENT ON TABLE plan_versions IS
        'What each version of a plan said: never changed, held to by the subscriptions that keep one'
    """,
    "COMMENT ON COLUMN plan_versions.terms IS 'The row of subscription_plans as it was'",
    "COMMENT ON COLUMN plan_versions.tiers IS 'Rising by up_to'",
    "COMMENT ON COLUMN plan_versions.permissions IS 'By name'",
    # The versions that are in force; those before them are gone.
    """
    INSERT INTO plan_versions (plan_id, version, terms, tiers, permissions)
    SELECT p.id, p.version, to_jsonb(p),
           coalesce((SELECT jsonb_agg(jsonb_build_object(
                        'up_to', t.up_to::text, 'unit_price', t.unit_price::text, 'flat_price', t.flat_price::text)
                        ORDER BY t.up_to)
                       FROM pricing_tiers t WHERE t.plan_id = p.id), '[]'),
           ARRAY(SELECT r.name FROM plan_permissions g JOIN permissions r ON r.id = g.permission_id
                  WHERE g.plan_id = p.id ORDER BY r.name)
      FROM subscription_plans p
    """,
)

SUBSCRIPTIONS = (
    """
    ALTER TABLE subscriptions
        ADD COLUMN keeps_version BOOLEAN DEFAULT false NOT NULL,
        ADD COLUMN period_anchor TIMESTAMPTZ,
        ADD COLUMN past_due_since TIMESTAMPTZ,
        ADD COLUMN next_plan_id TEXT
            CONSTRAINT fk_subscriptions_next_plan_id REFERENCES subscription_plans (id) ON DELETE RESTRICT,
        ADD COLUMN next_quantity INTEGER CONSTRAINT ck_subscriptions_next_quantity_positive CHECK (next_quantity > 0),
        ADD COLUMN provider_synced_at TIMESTAMPTZ
    """,
    "UPDATE subscriptions SET period_anchor = current_period_start",
    "ALTER TABLE subscriptions ALTER COLUMN period_anchor SET NOT NULL",
    """
    COMMENT ON COLUMN subscriptions.keeps_version IS
        'True: plan_version holds, whatever became of the plan; false: the plan as it is'
    """,
    "COMMENT ON COLUMN subscriptions.period_anchor IS 'Whose day and time of the month the periods keep'",
    "COMMENT ON COLUMN subscriptions.past_due_since IS 'Set while past_due; access ends a grace after it'",
    """
    COMMENT ON COLUMN subscriptions.next_quantity IS
        'With next_plan_id what the next period begins with; NULL: as it is'
    """,
    """
    COMMENT ON COLUMN subscriptions.provider_synced_at IS
        'When the provider''s state that is here was fetched; older news is ignored'
    """,
    "COMMENT ON COLUMN users.time_zone IS 'IANA name; billing periods follow its calendar'",
    "CREATE UNIQUE INDEX uq_subscriptions_trial ON subscriptions (user_id) WHERE trial_start IS NOT NULL",
    "CREATE INDEX ix_subscriptions_past_due_since ON subscriptions (past_due_since) WHERE status = 'past_due'",
    "CREATE INDEX ix_subscriptions_incomplete ON subscriptions (created_at) WHERE status = 'incomplete'",
    "CREATE INDEX ix_subscriptions_next_plan_id ON subscriptions (next_plan_id) WHERE next_plan_id IS NOT NULL",
    "CREATE INDEX ix_subscriptions_created_at_id ON subscriptions (created_at, id)",
)

CREDITS = (
    """
    ALTER TABLE user_credits
        ADD COLUMN period_credits BIGINT DEFAULT 0 NOT NULL
            CONSTRAINT ck_user_credits_period_credits_not_negative CHECK (period_credits >= 0),
        ADD COLUMN period_shortfall BIGINT DEFAULT 0 NOT NULL
            CONSTRAINT ck_user_credits_period_shortfall_not_negative CHECK (period_shortfall >= 0),
        ADD COLUMN noted_percent SMALLINT DEFAULT 0 NOT NULL
    """,
    """
    COMMENT ON COLUMN user_credits.period_credits IS
        'What the subscription gave for the period; 80 % of it used is news'
    """,
    """
    COMMENT ON COLUMN user_credits.period_shortfall IS
        'What a smaller plan should have taken back and was spent; a larger one gives less by it'
    """,
    """
    COMMENT ON COLUMN user_credits.noted_percent IS
        'Of the period''s credits, how much used the account was last told of'
    """,
    """
    ALTER TABLE credit_grants
        ADD COLUMN is_scheduled BOOLEAN DEFAULT false NOT NULL,
        ADD COLUMN subscription_id UUID
            CONSTRAINT fk_credit_grants_subscription_id REFERENCES subscriptions (id) ON DELETE RESTRICT,
        ADD COLUMN period_start TIMESTAMPTZ,
        ADD CONSTRAINT ck_credit_grants_scheduled_is_not_spendable CHECK (NOT is_scheduled OR remaining = 0)
    """,
    # The grants of the periods under way, so that nobody is granted one again. Only plan grants begin with a period.
    """
    UPDATE credit_grants g SET subscription_id = s.id, period_start = g.effective_at
      FROM (SELECT DISTINCT ON (g.user_id, s.id) g.id AS grant_id, s.id
              FROM credit_grants g JOIN subscriptions s
                ON s.user_id = g.user_id AND s.current_period_start = g.effective_at
             WHERE g.source = 'plan' ORDER BY g.user_id, s.id, g.id) s
     WHERE g.id = s.grant_id
    """,
    """
    UPDATE user_credits b SET period_credits = g.amount FROM credit_grants g
     WHERE g.subscription_id = b.subscription_id AND g.period_start = b.period_start
    """,
    """
    ALTER TABLE credit_grants
        ADD CONSTRAINT uq_credit_grants_subscription_id_period_start UNIQUE (subscription_id, period_start)
    """,
    """
    COMMENT ON COLUMN credit_grants.is_scheduled IS
        'Its time has not come: nothing remains of it, and the ledger does not know it'
    """,
    """
    COMMENT ON COLUMN credit_grants.period_start IS
        'Of the subscription''s period whose credits these are; NULL: not a period''s'
    """,
    "CREATE INDEX ix_credit_grants_scheduled ON credit_grants (effective_at) WHERE is_scheduled",
)


def upgrade() -> None:
    for statement in (*PLAN_VERSIONS, *SUBSCRIPTIONS, *CREDITS):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Scheduled grants are lost with the column that says what they are: nobody could spend them yet."""
    for statement in (
        "DELETE FROM credit_grants WHERE is_scheduled",
        "DROP INDEX ix_credit_grants_scheduled",
        "ALTER TABLE credit_grants DROP COLUMN is_scheduled, DROP COLUMN subscription_id, DROP COLUMN period_start",
        """
        ALTER TABLE user_credits
            DROP COLUMN period_credits, DROP COLUMN period_shortfall, DROP COLUMN noted_percent
        """,
        "DROP INDEX uq_subscriptions_trial, ix_subscriptions_created_at_id, ix_subscriptions_incomplete",
        """
        ALTER TABLE subscriptions
            DROP COLUMN keeps_version, DROP COLUMN period_anchor, DROP COLUMN past_due_since,
            DROP COLUMN next_plan_id, DROP COLUMN next_quantity, DROP COLUMN provider_synced_at
        """,
        "COMMENT ON COLUMN users.time_zone IS 'IANA name, for display only'",
        "DROP TABLE plan_versions",
    ):
        op.get_bind().exec_driver_sql(statement)
