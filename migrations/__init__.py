"""Alembic's folder: `gateway/ledger/db/schema.py` runs it, so that no alembic.ini is needed."""
