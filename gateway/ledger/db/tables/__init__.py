"""The schema as SQLAlchemy Core tables. `migrations/` creates it; a test compares the two."""

from gateway.ledger.db.tables.accounts import admin_tokens, api_keys, users
from gateway.ledger.db.tables.administration import (
    audit_head,
    audit_personal,
    idempotent_requests,
    imports,
    pepper_fingerprints,
)
from gateway.ledger.db.tables.catalogue import (
    catalogue,
    experiments,
    permissions,
    plan_permissions,
    plan_provider_prices,
    plan_versions,
    pricing_tiers,
    products,
    subscription_plans,
)
from gateway.ledger.db.tables.columns import metadata, new_id
from gateway.ledger.db.tables.credits import credit_grants, credit_ledger, user_credits
from gateway.ledger.db.tables.invoices import billing_spans, invoices
from gateway.ledger.db.tables.notifications import notice_deliveries, notices
from gateway.ledger.db.tables.payments import (
    billing_cursors,
    checkouts,
    invoice_numbers,
    overages,
    payment_allocations,
    provider_objects,
    usage_reports,
)
from gateway.ledger.db.tables.reports import report_months, revenue_entries, subscription_movements, usage_months
from gateway.ledger.db.tables.selling import coupon_redemptions, coupons, top_up_settings, top_ups
from gateway.ledger.db.tables.sessions import one_time_tokens, refresh_tokens, sessions, throttles
from gateway.ledger.db.tables.subscriptions import (
    payment_transactions,
    provider_customers,
    subscriptions,
    webhook_events,
)
from gateway.ledger.db.tables.usage import (
    analysis_history,
    audit_log,
    journal_offsets,
    journal_poison,
    meter_epochs,
    outbox,
    refused_requests,
    usage_hours,
    usage_sink_changes,
    usage_sinks,
    usage_tracking,
)

__all__ = [
    "admin_tokens",
    "analysis_history",
    "api_keys",
    "audit_head",
    "audit_log",
    "audit_personal",
    "billing_cursors",
    "billing_spans",
    "catalogue",
    "checkouts",
    "coupon_redemptions",
    "coupons",
    "credit_grants",
    "credit_ledger",
    "experiments",
    "idempotent_requests",
    "imports",
    "invoice_numbers",
    "invoices",
    "journal_offsets",
    "journal_poison",
    "metadata",
    "meter_epochs",
    "new_id",
    "notice_deliveries",
    "notices",
    "one_time_tokens",
    "outbox",
    "overages",
    "payment_allocations",
    "payment_transactions",
    "pepper_fingerprints",
    "permissions",
    "plan_permissions",
    "plan_provider_prices",
    "plan_versions",
    "pricing_tiers",
    "products",
    "provider_customers",
    "provider_objects",
    "refresh_tokens",
    "refused_requests",
    "report_months",
    "revenue_entries",
    "sessions",
    "subscription_movements",
    "subscription_plans",
    "subscriptions",
    "throttles",
    "top_up_settings",
    "top_ups",
    "usage_hours",
    "usage_months",
    "usage_reports",
    "usage_sink_changes",
    "usage_sinks",
    "usage_tracking",
    "user_credits",
    "users",
    "webhook_events",
]
