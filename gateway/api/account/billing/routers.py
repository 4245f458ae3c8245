"""What of the account API is about money, and the doors of the payment providers."""

from __future__ import annotations

from types import ModuleType

from gateway.api.account.billing import checkout, invoices, payments
from gateway.api.webhooks import inbox

BILLING: tuple[ModuleType, ...] = (checkout, payments, invoices, inbox)
