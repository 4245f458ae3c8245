"""Rows that say they were created on another day, by the defaults of their tables within one transaction."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

_TABLES = (
    *("users", "api_keys", "user_credits", "credit_grants", "credit_ledger", "subscriptions", "billing_spans"),
    *("invoices", "payment_transactions", "payment_allocations", "checkouts", "webhook_events"),
)


async def set_creation_time(connection: AsyncConnection, instant: datetime | None) -> None:
    """New rows get `instant` as created_at until the next call; None: the present again.

    The ledger is append-only, so nothing can be backdated later. DDL takes no parameters, hence the literal.
    """
    default = "now()" if instant is None else f"timestamptz '{instant.isoformat()}'"
    for table in _TABLES:
        await connection.exec_driver_sql(f"ALTER TABLE {table} ALTER COLUMN created_at SET DEFAULT {default}")
