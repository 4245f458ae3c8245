"""Admin tokens, answers kept for repeated requests, and the chain that seals the audit log."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
serves_from = "0006"
is_needed = True


def upgrade() -> None:
    script = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    # Past SQLAlchemy, whose prepared statements hold one statement each.
    op.get_bind().connection.run_async(lambda driver: driver.execute(script))


def downgrade() -> None:
    for statement in (
        "DROP TABLE idempotent_requests, audit_personal, audit_head",
        "ALTER TABLE audit_log DROP COLUMN pepper_version",
        "ALTER TABLE audit_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY",
        # Identities go on behind what is there.
        "SELECT setval(pg_get_serial_sequence('audit_log', 'id'), coalesce(max(id), 0) + 1, false) FROM audit_log",
        "COMMENT ON COLUMN audit_log.id IS NULL",
        "COMMENT ON COLUMN audit_log.hash IS NULL",
        "DROP INDEX ix_api_keys_prefix",
        "ALTER TABLE api_keys DROP COLUMN hash_scheme, DROP COLUMN is_foreign",
        "ALTER TABLE admin_tokens DROP COLUMN prefix, DROP COLUMN last4",
        "COMMENT ON COLUMN admin_tokens.token_hash IS NULL",
    ):
        op.get_bind().exec_driver_sql(statement)
