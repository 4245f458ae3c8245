"""Runs migrations on the connection that `gateway/ledger/db/schema.py` hands over, in the transaction that it holds."""

from __future__ import annotations

from alembic import context

from gateway.ledger.db.schema import COMPARISON

context.configure(connection=context.config.attributes["connection"], **COMPARISON)
context.run_migrations()
