"""Users, their API keys, and admin tokens."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from gateway.ledger.db.tables.columns import (
    Word,
    created_at,
    id_column,
    metadata,
    metadata_column,
    moment,
    not_negative,
    one_of,
    updated_at,
    words,
)
from policies.model import AccountStatus, KeyScheme, KeyStatus

# The words that a user is found by, each also by its beginning; as PostgreSQL itself writes it, for comparison.
WORDS = (
    "to_tsvector('simple'::regconfig, (((translate(lower(email), '@.+_-'::text, '     '::text) || ' '::text)"
    " || COALESCE(name, ''::text)) || ' '::text) || COALESCE(company, ''::text))"
)

users = Table(
    "users",
    metadata,
    id_column(),
    Column("email", Text, nullable=False),
    Column("password_hash", Text, comment="Argon2id as a PHC string; NULL for a user that an administrator created"),
    Column("name", Text),
    Column("company", Text),
    Column("status", Word(AccountStatus), nullable=False, server_default=text("'active'")),
    Column("role", Text, nullable=False, server_default=text("'user'")),
    Column("external_id", Text, unique=True, comment="The id this user has in the operator's own system"),
    moment("email_verified_at"),
    Column(
        "time_zone",
        Text,
        nullable=False,
        server_default=text("'UTC'"),
        comment="IANA name; billing periods follow its calendar",
    ),
    Column("billing_address", Text, comment="Lines of print, for invoices"),
    Column("vat_id", Text),
    Column(
        "version",
        BigInteger,
        nullable=False,
        server_default=text("1"),
        comment="Grows with every change of the user, its keys or subscription; decisions on older ones are stale",
    ),
    moment("deleted_at", comment="Set on deletion: the row stays without personal data, because usage refers to it"),
    Column(
        "persons",
        ARRAY(LargeBinary, as_tuple=True),
        nullable=False,
        server_default=text("'{}'"),
        comment="Keyed digests of its mailboxes, kept a while after deletion: free credits and trials are one a person",
    ),
    Column(
        "proven_persons",
        ARRAY(LargeBinary, as_tuple=True),
        nullable=False,
        server_default=text("'{}'"),
        comment="Those of persons whose mail it has read: what others only said of themselves counts not for it",
    ),
    metadata_column(),
    created_at(),
    updated_at(),
    one_of("status", AccountStatus),
    one_of("role", ("user", "admin")),
    CheckConstraint("position('@' in email) > 1", name="email_shape"),
    # Two spellings of one address are one account.
    Index("uq_users_email_lower", text("lower(email)"), unique=True),
    # The list of users, newest first, by cursor.
    Index("ix_users_created_at_id", "created_at", "id"),
    # Accounts of one person.
    Index("ix_users_persons", "persons", postgresql_using="gin"),
    # The workers that complete deletions.
    Index("ix_users_deleted_at", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
    # The worker that pauses their payments at providers.
    Index("ix_users_suspended", "id", postgresql_where=text("status = 'suspended' AND deleted_at IS NULL")),
    # Search by words of the address, the name and the company.
    Index(
        "ix_users_words",
        text(WORDS),
        postgresql_using="gin",
        postgresql_where=text("deleted_at IS NULL"),
    ),
    comment="Accounts, which are limited, charged and billed",
)

api_keys = Table(
    "api_keys",
    metadata,
    id_column(),
    Column("user_id", PG_UUID(as_uuid=True), ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("name", Text, nullable=False, server_default=text("''")),
    Column("prefix", Text, nullable=False, comment="The first characters of the key, which identify it to people"),
    Column("last4", Text, nullable=False),
    # The unique index serves the lookup of each key that is not cached.
    Column("key_hash", LargeBinary, nullable=False, unique=True, comment="HMAC-SHA-256 of the key under the pepper"),
    Column("pepper_version", SmallInteger, nullable=False, server_default=text("1")),
    Column(
        "hash_scheme",
        Word(KeyScheme),
        nullable=False,
        server_default=text("'hmac-sha256'"),
        comment="sha256: imported as a plain digest, replaced by an HMAC at the first use",
    ),
    Column(
        "is_foreign",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Imported from another system, in another form and without a checksum",
    ),
    Column(
        "status",
        Word(KeyStatus),
        nullable=False,
        server_default=text("'active'"),
        comment="Expiry is not a status: see expires_at",
    ),
    Column("permissions", words(), comment="NULL: every permission of the plan"),
    Column("allowed_ips", words(), nullable=False, server_default=text("'{}'"), comment="CIDRs; empty: from anywhere"),
    Column("credit_cap", BigInteger, comment="Credits that this key may spend in a period; NULL: no cap"),
    moment("expires_at"),
    moment("last_used_at", comment="Written in batches, seconds late"),
    moment("revoked_at"),
    Column("rotated_from", PG_UUID(as_uuid=True), ForeignKey("api_keys.id", ondelete="SET NULL")),
    metadata_column(),
    created_at(),
    updated_at(),
    one_of("status", KeyStatus),
    one_of("hash_scheme", KeyScheme),
    CheckConstraint("octet_length(key_hash) = 32", name="key_hash_is_sha256"),
    CheckConstraint("(status = 'revoked') = (revoked_at IS NOT NULL)", name="revoked_at_when_revoked"),
    *not_negative("credit_cap"),
    # A user's keys, newest first, by cursor.
    Index("ix_api_keys_user_id_created_at_id", "user_id", "created_at", "id"),
    # All keys, newest first, by cursor.
    Index("ix_api_keys_created_at_id", "created_at", "id"),
    # Which key replaced this one.
    Index("ix_api_keys_rotated_from", "rotated_from", postgresql_where=text("rotated_from IS NOT NULL")),
    # Prefixes of imported keys; keys with another prefix need no lookup.
    Index("ix_api_keys_prefix", "prefix", postgresql_where=text("is_foreign")),
    # Search by what is shown of a key.
    Index("ix_api_keys_shown_prefix", "prefix", postgresql_ops={"prefix": "text_pattern_ops"}),
    Index("ix_api_keys_last4", "last4"),
    comment="API keys. The secret is shown once and never stored",
)

admin_tokens = Table(
    "admin_tokens",
    metadata,
    id_column(),
    Column("name", Text, nullable=False, unique=True),
    Column("prefix", Text, nullable=False, comment="The first characters of the token, which identify it to people"),
    Column("last4", Text, nullable=False),
    Column("token_hash", LargeBinary, nullable=False, unique=True, comment="HMAC-SHA-256 of the token under a pepper"),
    Column("scopes", words(), nullable=False, comment="keys:write, credits:write, read, ..."),
    moment("expires_at"),
    moment("revoked_at"),
    moment("last_used_at"),
    created_at(),
    updated_at(),
    comment="Scoped tokens of the admin API; the root token comes from the environment",
)
