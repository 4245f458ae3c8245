"""Login sessions, refresh tokens, one-time tokens and throttles. Reading these tables gives no access."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, LargeBinary, Table, Text
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from gateway.ledger.db.tables.columns import created_at, id_column, metadata, moment, one_of

PURPOSES = ("verify_email", "reset_password")

sessions = Table(
    "sessions",
    metadata,
    id_column(),
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("address", Text, comment="The client address of the login; logins from a known address are not throttled"),
    moment("expires_at", nullable=False, comment="Extended by each refresh"),
    moment("revoked_at"),
    created_at(),
    # A user's sessions: a new password ends all of them, and they tell known addresses.
    Index("ix_sessions_user_id", "user_id"),
    # Cleanup.
    Index("ix_sessions_expires_at", "expires_at"),
    comment="A login with its refresh tokens, which are revoked together",
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True, comment="SHA-256 of the token, which has 256 random bits"),
    Column("session_id", PG_UUID(as_uuid=True), ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    moment("used_at", comment="A use later than shortly after it means theft and revokes the session"),
    created_at(),
    CheckConstraint("octet_length(token_hash) = 32", name="token_hash_is_sha256"),
    Index("ix_refresh_tokens_session_id", "session_id"),
    comment="The unused ones are valid; a used one detects theft",
)

one_time_tokens = Table(
    "one_time_tokens",
    metadata,
    id_column(),
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("purpose", Text, nullable=False),
    Column("email", Text, nullable=False, comment="The address it was sent to, and the only one it verifies"),
    moment("expires_at", nullable=False),
    moment("used_at"),
    created_at(),
    one_of("purpose", PURPOSES),
    Index("ix_one_time_tokens_user_id", "user_id"),
    # Cleanup.
    Index("ix_one_time_tokens_expires_at", "expires_at"),
    comment="Tokens sent by e-mail; each is a MAC of its row under a secret outside the database",
)

throttles = Table(
    "throttles",
    metadata,
    Column("subject", LargeBinary, primary_key=True, comment="Digest of what is throttled: an address, an account"),
    moment("free_at", nullable=False, comment="When the allowance is full again; after it the row has no effect"),
    # Cleanup.
    Index("ix_throttles_free_at", "free_at"),
    comment="Recent attempts, as one instant per subject (GCRA)",
)
