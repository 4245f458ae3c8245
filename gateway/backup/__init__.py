"""Backups: PostgreSQL at one moment and what the journal held, in one file with a checksum; and their restore."""
