"""Books for the reports of months: revenue, subscriptions, usage by account, and the reports of closed months.

Triggers keep them, so they are right whichever release writes. What came before is taken from the rows as they are:
payments as they stand, and of each subscription its beginning, at today's price, and its end.
"""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None
serves_from = "0020"
is_needed = True

_TABLES = (
    """
    CREATE TABLE usage_months (
        month DATE NOT NULL,
        user_id UUID NOT NULL,
        requests BIGINT NOT NULL,
        credits_charged NUMERIC NOT NULL,
        cost_usd NUMERIC NOT NULL,
        cost_unknown BIGINT NOT NULL,
        CONSTRAINT pk_usage_months PRIMARY KEY (month, user_id)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE subscription_movements (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        moved_at TIMESTAMPTZ NOT NULL,
        subscription_id UUID NOT NULL,
        user_id UUID NOT NULL,
        provider TEXT NOT NULL,
        plan_id TEXT NOT NULL,
        plan_version BIGINT NOT NULL,
        quantity INTEGER NOT NULL,
        is_paying BOOLEAN NOT NULL,
        CONSTRAINT pk_subscription_movements PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX ix_subscription_movements_subscription_id_id ON subscription_movements (subscription_id, id)",
    "CREATE INDEX ix_subscription_movements_user_id_id ON subscription_movements (user_id, id)",
    "CREATE INDEX ix_subscription_movements_moved_at ON subscription_movements (moved_at)",
    """
    CREATE TABLE revenue_entries (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        month DATE NOT NULL,
        paid_month DATE NOT NULL,
        kind TEXT NOT NULL,
        amount NUMERIC NOT NULL,
        currency TEXT NOT NULL,
        plan_id TEXT,
        provider TEXT NOT NULL,
        payment_id UUID NOT NULL,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_revenue_entries PRIMARY KEY (id),
        CONSTRAINT ck_revenue_entries_kind CHECK (kind IN ('charge', 'refund', 'dispute'))
    )
    """,
    "CREATE INDEX ix_revenue_entries_month ON revenue_entries (month)",
    """
    CREATE TABLE report_months (
        month DATE NOT NULL,
        closed_at TIMESTAMPTZ NOT NULL,
        reports JSONB NOT NULL,
        CONSTRAINT pk_report_months PRIMARY KEY (month)
    )
    """,
    "CREATE INDEX ix_credit_ledger_created_at ON credit_ledger USING brin (created_at)",
)

_COMMENTS = {
    "TABLE usage_months": "Sums of usage_tracking by month and account, which its triggers keep",
    "COLUMN usage_months.month": "The first day of the month in which the calls were admitted, in UTC",
    "COLUMN usage_months.cost_unknown": "Calls whose cost_usd is not known",
    "TABLE subscription_movements": (
        "What subscriptions are at, from when on; triggers write it. Append-only: a trigger refuses UPDATE and DELETE"
    ),
    "COLUMN subscription_movements.plan_version": "The version that it is on; plan_versions has its price",
    "COLUMN subscription_movements.is_paying": "Active or past due: it counts towards recurring revenue",
    "TABLE revenue_entries": (
        "Money that came and went, by the month that reports it; triggers write it. Append-only, as the movements"
    ),
    "COLUMN revenue_entries.month": "The first day of the month that reports it, in UTC",
    "COLUMN revenue_entries.paid_month": "The month of the money; an earlier one than month had been closed by then",
    "COLUMN revenue_entries.amount": "Negative for money that goes back",
    "TABLE report_months": "The reports of closed months, which never change",
}

# A lost dispute is completed, as one that was won. The release before says which in the description alone.
_REVENUE_OF = r"""
    CREATE FUNCTION revenue_of(p payment_transactions) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
        SELECT CASE
            WHEN p.transaction_type IN ('subscription', 'credits')
                 AND p.status IN ('completed', 'refunded', 'partially_refunded', 'disputed') THEN p.amount
            WHEN p.transaction_type = 'refund' AND p.status = 'completed' THEN -p.amount
            WHEN p.transaction_type = 'dispute'
                 AND (p.status = 'disputed' OR coalesce(p.metadata ->> 'dispute',
                                                        substring(p.description FROM '^dispute, (\w+)')) = 'lost')
                 THEN -p.amount
            ELSE 0 END
    $$
"""
_KIND = "CASE WHEN {0}.transaction_type IN ('refund', 'dispute') THEN {0}.transaction_type ELSE 'charge' END"
_MONTH = "date_trunc('month', {} AT TIME ZONE 'UTC')::date"
_PAID_MONTH = _MONTH.format("coalesce({0}.processed_at, {0}.created_at)")

# Months are closed in their order, so what belongs to a closed one is reported by the first that is open.
_BOOK_REVENUE = f"""
    CREATE FUNCTION book_revenue() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        change numeric := revenue_of(NEW);
        paid date := {_PAID_MONTH.format("NEW")};
    BEGIN
        IF TG_OP = 'UPDATE' THEN change := change - revenue_of(OLD); END IF;
        IF change <> 0 THEN
            INSERT INTO revenue_entries (month, paid_month, kind, amount, currency, plan_id, provider, payment_id)
            SELECT greatest(paid, (max(month) + interval '1 month')::date), paid, {_KIND.format("NEW")}, change,
                   NEW.currency, NEW.plan_id, NEW.provider, NEW.id
              FROM report_months;
        END IF;
        RETURN NULL;
    END $$
"""  # noqa: S608 - made of constants

_MOVED = "(moved_at, subscription_id, user_id, provider, plan_id, plan_version, quantity, is_paying)"
_PAYS = "{}.status IN ('active', 'past_due')"

_MOVE = f"""
    CREATE FUNCTION move_subscription() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO subscription_movements {_MOVED}
        SELECT clock_timestamp(), NEW.id, NEW.user_id, NEW.provider, NEW.plan_id,
               CASE WHEN NEW.keeps_version THEN NEW.plan_version ELSE p.version END, NEW.quantity, {_PAYS.format("NEW")}
          FROM subscription_plans p WHERE p.id = NEW.plan_id;
        RETURN NULL;
    END $$
"""  # noqa: S608 - made of constants

# A new version at another price moves the subscriptions that follow the plan.
_PRICED_BY = ("price", "currency", "pricing_model", "billing_interval", "billing_interval_count")
_PRICE = "ARRAY[" + "".join(f"{{0}}.terms -> '{name}', " for name in _PRICED_BY) + "{0}.tiers]"
_MOVE_FOLLOWERS = f"""
    CREATE FUNCTION move_followers() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO subscription_movements {_MOVED}
        SELECT clock_timestamp(), s.id, s.user_id, s.provider, s.plan_id, NEW.version, s.quantity, true
          FROM subscriptions s
         WHERE s.plan_id = NEW.plan_id AND NOT s.keeps_version AND {_PAYS.format("s")}
           AND {_PRICE.format("NEW")} IS DISTINCT FROM (
               SELECT {_PRICE.format("v")} FROM plan_versions v
                WHERE v.plan_id = NEW.plan_id AND v.version < NEW.version ORDER BY v.version DESC LIMIT 1)
         ORDER BY s.id;
        RETURN NULL;
    END $$
"""  # noqa: S608 - made of constants


def _add(rows: str) -> str:
    """Adds to the sums what `rows` have, each with the sign `n`. In the order of the key: so no two can deadlock."""
    sums = ("requests", "credits_charged", "cost_usd", "cost_unknown")
    return f"""
        INSERT INTO usage_months AS m (month, user_id, {", ".join(sums)})
        SELECT {_MONTH.format("created_at")}, user_id, sum(n), coalesce(sum(n * credits_charged), 0),
               coalesce(sum(n * cost_usd), 0), coalesce(sum(n) FILTER (WHERE cost_usd IS NULL), 0)
          FROM {rows} r GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (month, user_id) DO UPDATE SET {", ".join(f"{name} = m.{name} + excluded.{name}" for name in sums)}
    """  # noqa: S608 - made of constants


def _adder(name: str, rows: str) -> str:
    return f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {_add(rows)}; RETURN NULL; END $$"


_FUNCTIONS = {
    "revenue_of(payment_transactions)": _REVENUE_OF,
    "book_revenue()": _BOOK_REVENUE,
    "move_subscription()": _MOVE,
    "move_followers()": _MOVE_FOLLOWERS,
    "add_usage_to_months()": _adder("add_usage_to_months", "(SELECT 1::bigint AS n, * FROM added)"),
    "change_usage_of_months()": _adder(
        "change_usage_of_months", "(SELECT -1::bigint AS n, * FROM before UNION ALL SELECT 1::bigint, * FROM after)"
    ),
}

_TRIGGERS = {
    ("add_usage_to_months", "usage_tracking"): (
        "AFTER INSERT ON usage_tracking REFERENCING NEW TABLE AS added FOR EACH STATEMENT"
    ),
    ("change_usage_of_months", "usage_tracking"): (
        "AFTER UPDATE ON usage_tracking REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT"
    ),
    ("book_revenue", "payment_transactions"): "AFTER INSERT OR UPDATE ON payment_transactions FOR EACH ROW",
    ("move_subscription", "subscriptions"): (
        "AFTER UPDATE OF status, plan_id, plan_version, keeps_version, quantity ON subscriptions FOR EACH ROW WHEN"
        f" (({_PAYS.format('OLD')} OR {_PAYS.format('NEW')}) AND"
        f" ({_PAYS.format('OLD')}, OLD.plan_id, OLD.plan_version, OLD.keeps_version, OLD.quantity) IS DISTINCT FROM"
        f" ({_PAYS.format('NEW')}, NEW.plan_id, NEW.plan_version, NEW.keeps_version, NEW.quantity))"
    ),
    ("begin_subscription", "subscriptions"): (
        f"AFTER INSERT ON subscriptions FOR EACH ROW WHEN ({_PAYS.format('NEW')})"
    ),
    ("move_followers", "plan_versions"): "AFTER INSERT ON plan_versions FOR EACH ROW",
}
_CALLS = {"begin_subscription": "move_subscription"}

_BOOKS = ("subscription_movements", "revenue_entries")

_PAST_REVENUE = f"""
    INSERT INTO revenue_entries (month, paid_month, kind, amount, currency, plan_id, provider, payment_id)
    SELECT {_PAID_MONTH.format("p")}, {_PAID_MONTH.format("p")}, {_KIND.format("p")}, revenue_of(p), p.currency,
           p.plan_id, p.provider, p.id
      FROM payment_transactions p WHERE revenue_of(p) <> 0 ORDER BY p.created_at, p.id
"""  # noqa: S608 - made of constants

# One that never began, or ended within its trial, moved nothing.
_PAST_MOVEMENTS = f"""
    INSERT INTO subscription_movements {_MOVED}
    SELECT m.at, s.id, s.user_id, s.provider, s.plan_id,
           CASE WHEN s.keeps_version THEN s.plan_version ELSE p.version END, s.quantity, m.pays
      FROM subscriptions s JOIN subscription_plans p ON p.id = s.plan_id
     CROSS JOIN LATERAL (
           SELECT greatest(s.created_at, s.trial_end) AS began,
                  CASE WHEN s.status IN ('canceled', 'expired')
                       THEN CASE WHEN s.cancel_at_period_end OR s.status = 'expired' THEN s.current_period_end
                                 ELSE coalesce(s.canceled_at, s.current_period_end) END
                       WHEN s.status = 'paused' THEN s.updated_at END AS ended) t
     CROSS JOIN LATERAL (VALUES (t.began, true), (t.ended, false)) m (at, pays)
     WHERE s.status NOT IN ('incomplete', 'trialing') AND m.at IS NOT NULL AND m.at <= now()
       AND (s.provider = 'manual' OR s.provider_subscription_id IS NOT NULL)
       AND (t.ended IS NULL OR t.began < t.ended)
     ORDER BY m.at, s.id
"""  # noqa: S608 - made of constants


def upgrade() -> None:
    execute = op.get_bind().exec_driver_sql
    for statement in (*_TABLES, *_FUNCTIONS.values()):
        execute(statement)
    for what, comment in _COMMENTS.items():
        execute(f"COMMENT ON {what} IS '{comment}'")
    for (name, _), event in _TRIGGERS.items():
        execute(f"CREATE TRIGGER {name} {event} EXECUTE FUNCTION {_CALLS.get(name, name)}()")
    # The triggers' locks keep other writers out until the end of the transaction.
    for statement in (_add("(SELECT 1::bigint AS n, * FROM usage_tracking)"), _PAST_REVENUE, _PAST_MOVEMENTS):
        execute(statement)
    for table in _BOOKS:
        execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite()"
        )


def downgrade() -> None:
    execute = op.get_bind().exec_driver_sql
    for name, table in _TRIGGERS:
        execute(f"DROP TRIGGER {name} ON {table}")
    for signature in reversed(_FUNCTIONS):
        execute(f"DROP FUNCTION {signature}")
    execute("DROP INDEX ix_credit_ledger_created_at")
    for table in ("report_months", *reversed(_BOOKS), "usage_months"):
        op.drop_table(table)
