"""What of the admin API is about money."""

from __future__ import annotations

from types import ModuleType

from gateway.api.admin.billing import invoices, payments, refunds, webhook_events

BILLING: tuple[ModuleType, ...] = (payments, refunds, invoices, webhook_events)
