"""Alembic's folder: `gateway/ledger/schema.py` runs it, so that no alembic.ini is needed."""
