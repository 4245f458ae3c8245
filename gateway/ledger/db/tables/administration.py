"""The end and the personal data of the audit log, fingerprints of peppers, idempotent requests, and imports."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from gateway.ledger.db.tables.columns import created_at, id_column, metadata, moment, one_of, updated_at

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False, server_default=text("1")),
    Column(
        "last_id", BigInteger, nullable=False, comment="The newest row of audit_log; the next one has the next number"
    ),
    Column("hash", LargeBinary, nullable=False, comment="The hash of that row"),
    Column("unsealed_until", BigInteger, nullable=False, comment="The last row before the chain"),
    Column("mac", LargeBinary, comment="HMAC-SHA-256 of this row: without the key, nobody can move the end back"),
    Column("pepper_version", SmallInteger),
    updated_at(),
    CheckConstraint("id = 1", name="one_row"),
    comment="One row: the end of the chain of audit_log. Its lock serializes appends",
)

audit_personal = Table(
    "audit_personal",
    metadata,
    # No foreign key: the log refuses every DELETE and TRUNCATE itself.
    Column("audit_id", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", PG_UUID(as_uuid=True), nullable=False),
    Column("salt", LargeBinary, nullable=False, comment="The salt of the digests in audit_log; erased with the data"),
    Column("before", JSONB(none_as_null=True)),
    Column("after", JSONB(none_as_null=True)),
    # Erasure of a user.
    Index("ix_audit_personal_user_id", "user_id"),
    comment="The personal values of audit_log, stored apart, so that erasing them leaves the chain valid",
)

pepper_fingerprints = Table(
    "pepper_fingerprints",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("fingerprint", LargeBinary, nullable=False, comment="HMAC-SHA-256 of a fixed text under the pepper"),
    created_at(),
    comment="The peppers under which this database has digests; no process starts with another one",
)

idempotent_requests = Table(
    "idempotent_requests",
    metadata,
    Column("caller", Text, primary_key=True, comment="The caller; the keys of different callers are independent"),
    Column("key_hash", LargeBinary, primary_key=True, comment="SHA-256 of the Idempotency-Key"),
    Column("fingerprint", LargeBinary, nullable=False, comment="SHA-256 of method, target and body"),
    Column(
        "nonce",
        LargeBinary,
        nullable=False,
        comment="Secrets in the response are derived from it and the key, never stored",
    ),
    Column("status_code", SmallInteger, comment="NULL while the request runs"),
    Column("media_type", Text),
    Column("body", LargeBinary),
    created_at(),
    # Retention.
    Index("ix_idempotent_requests_created_at", "created_at"),
    comment="Responses of the admin API by Idempotency-Key, written with the change and stored for a day",
)

IMPORT_STATES = ("running", "done", "canceled", "failed")

imports = Table(
    "imports",
    metadata,
    id_column(),
    Column("source", Text, nullable=False, comment="The name that the mapping gives it"),
    Column("state", Text, nullable=False, server_default=text("'running'")),
    Column(
        "sections",
        JSONB,
        nullable=False,
        server_default=text("'[]'::jsonb"),
        comment="In their order, each with its rows, and how many were read, imported, present and refused",
    ),
    Column(
        "is_cancel_requested",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="The process that imports looks after each batch",
    ),
    moment("ended_at"),
    created_at(),
    updated_at(),
    one_of("state", IMPORT_STATES),
    CheckConstraint("(state = 'running') = (ended_at IS NULL)", name="ended_at_a_time"),
    Index("ix_imports_created_at_id", "created_at", "id"),
    comment="Imports from other systems, with how far each is",
)
