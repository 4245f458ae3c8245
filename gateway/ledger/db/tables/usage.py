"""Usage, its history, refusals, the audit log, and the queues between PostgreSQL and Redis."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from gateway.ledger.db.tables.columns import (
    created_at,
    credits_column,
    metadata,
    metadata_column,
    moment,
    not_negative,
    one_of,
    positive,
    serial_column,
    updated_at,
)
from policies.model import Outcome

OUTBOX_KINDS = ("account", "credits", "catalogue")
# What is summed of calls. A NULL adds nothing.
SUMMED = (
    *("credits_charged", "product_count", "tokens_used", "input_tokens", "cached_input_tokens", "cache_write_tokens"),
    *("output_tokens", "reasoning_tokens", "cost_usd", "request_bytes", "response_bytes"),
)

usage_tracking = Table(
    "usage_tracking",
    metadata,
    Column("request_id", PG_UUID(as_uuid=True), primary_key=True),
    moment("created_at", primary_key=True, comment="When the request was admitted, by the Redis clock"),
    # No foreign key: five lookups per row would halve the writer's throughput, and a row must never be refused.
    Column("user_id", PG_UUID(as_uuid=True), nullable=False),
    Column("api_key_id", PG_UUID(as_uuid=True)),
    Column("subscription_id", PG_UUID(as_uuid=True)),
    Column("plan_id", Text),
    Column("endpoint", Text, nullable=False, comment="The name of the route"),
    Column("method", Text, nullable=False),
    Column("path", Text, nullable=False, comment="Canonical, without the query"),
    Column("usage_type", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("status_code", SmallInteger, comment="The status sent to the client; NULL if none was sent"),
    Column("error_code", Text),
    credits_column("credits_charged"),
    Column(
        "product_count",
        Integer,
        nullable=False,
        server_default=text("1"),
        comment="Counted items of the price, else 1",
    ),
    Column("tokens_used", BigInteger, comment="Input and output together"),
    Column("model", Text, comment="The model that the request asks for, else the one that answered"),
    Column("input_tokens", BigInteger, comment="All input, the cached and the written to the cache included"),
    Column("cached_input_tokens", BigInteger),
    Column("cache_write_tokens", BigInteger),
    Column("output_tokens", BigInteger, comment="All output, the reasoning included"),
    Column("reasoning_tokens", BigInteger),
    Column(
        "usage_source", Text, comment="reported, estimated, missing or none; NULL where no settlement wrote the row"
    ),
    Column("cost_usd", Numeric(12, 6), comment="What the upstream asks for the call; NULL where it is not known"),
    Column("language_code", Text),
    Column("category", Text),
    Column("batch_id", Text),
    Column("request_bytes", BigInteger),
    Column("response_bytes", BigInteger),
    Column("file_size_bytes", BigInteger),
    Column("response_time_ms", Integer),
    Column("upstream_time_ms", Integer),
    Column("client_ip", Text),
    Column("client_request_id", Text),
    metadata_column(),
    one_of("outcome", Outcome),
    *not_negative("credits_charged", "product_count"),
    # A user's usage, newest first, by cursor.
    Index("ix_usage_tracking_user_id_created_at", "user_id", "created_at", "request_id"),
    # All usage, newest first, by cursor; filters on endpoint and outcome read the rows on the way.
    Index("ix_usage_tracking_created_at", "created_at", "request_id"),
    postgresql_partition_by="RANGE (created_at)",
    comment="One row per admitted request, in month partitions; the default partition takes the others",
)

# Sums have no bound that a row could pass: a call must never be refused for them.
usage_hours = Table(
    "usage_hours",
    metadata,
    moment("hour", primary_key=True, comment="The start of the hour in which the calls were admitted, in UTC"),
    Column("endpoint", Text, primary_key=True),
    Column("plan_id", Text, primary_key=True, comment="Empty where a call has none; so are the next ones"),
    Column("model", Text, primary_key=True),
    Column("usage_type", Text, primary_key=True),
    Column("outcome", Text, primary_key=True),
    Column("usage_source", Text, primary_key=True),
    Column(
        "shard",
        SmallInteger,
        primary_key=True,
        autoincrement=False,
        comment="Of the connection that wrote, so that writers seldom wait for each other",
    ),
    Column("requests", BigInteger, nullable=False),
    *(Column(name, Numeric, nullable=False) for name in SUMMED),
    Column("cost_unknown", BigInteger, nullable=False, comment="Calls whose cost_usd is not known"),
    Column("response_time_ms", Numeric, nullable=False),
    Column("timed_requests", BigInteger, nullable=False, comment="Calls whose response_time_ms is known"),
    postgresql_with={"fillfactor": "50"},
    comment="Sums of usage_tracking by hour, which its triggers keep; they stay when its months are dropped",
)

usage_sinks = Table(
    "usage_sinks",
    metadata,
    Column("name", Text, primary_key=True),
    moment("expires_at", nullable=False, comment="Changes are marked until then"),
    comment="The sink of usage, while a worker keeps it",
)

usage_sink_changes = Table(
    "usage_sink_changes",
    metadata,
    serial_column(),
    moment("hour", nullable=False),
    Index("ix_usage_sink_changes_hour", "hour"),
    comment="Hours whose rows of usage_tracking the sink lacks; triggers add them",
)

analysis_history = Table(
    "analysis_history",
    metadata,
    Column("id", PG_UUID(as_uuid=True), primary_key=True, comment="Equal to request_id"),
    Column("request_id", PG_UUID(as_uuid=True), nullable=False),
    moment("created_at", primary_key=True),
    Column("user_id", PG_UUID(as_uuid=True), nullable=False),
    Column("api_key_id", PG_UUID(as_uuid=True)),
    Column("subscription_id", PG_UUID(as_uuid=True)),
    Column("analysis_type", Text, nullable=False, comment="The name of the route"),
    Column("file_name", Text),
    Column("file_size_bytes", BigInteger),
    Column("file_sha256", Text, comment="Lower-case hex"),
    Column("content_type", Text),
    Column("status", Text, nullable=False),
    Column("response_time_ms", Integer),
    credits_column("credits_charged"),
    Column("result_summary", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    one_of("status", Outcome),
    *not_negative("credits_charged"),
    # A user's history, newest first, by cursor.
    Index("ix_analysis_history_user_id_created_at", "user_id", "created_at", "id"),
    # All of the history, newest first, by cursor.
    Index("ix_analysis_history_created_at", "created_at", "id"),
    postgresql_partition_by="RANGE (created_at)",
    comment="One row per admitted request of usage type analysis, in month partitions",
)

refused_requests = Table(
    "refused_requests",
    metadata,
    Column("api_key_id", PG_UUID(as_uuid=True), ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True),
    Column("endpoint", Text, primary_key=True),
    Column("code", Text, primary_key=True, comment="The code of the problem document"),
    moment("minute", primary_key=True),
    Column("count", BigInteger, nullable=False),
    *positive("count"),
    CheckConstraint("extract(second FROM minute) = 0", name="minute_is_whole"),
    # Retention, and recent refusals.
    Index("ix_refused_requests_minute", "minute"),
    comment="Requests of known keys that were refused, counted per minute",
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False, comment="Gapless, in the order of commits"),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("entity", Text, nullable=False),
    Column("entity_id", Text, nullable=False),
    # Digests replace personal values, which are in audit_personal.
    Column("before", JSONB(none_as_null=True)),
    Column("after", JSONB(none_as_null=True)),
    Column("reason", Text),
    Column("prev_hash", LargeBinary, comment="The hash of the previous row"),
    Column("hash", LargeBinary, comment="HMAC-SHA-256 of prev_hash and the row; NULL in rows before the chain"),
    Column("pepper_version", SmallInteger, comment="The version of the pepper that the hash key is derived from"),
    created_at(),
    # The history of one entity.
    Index("ix_audit_log_entity_entity_id_id", "entity", "entity_id", "id"),
    comment="Who changed what. Append-only: a trigger refuses UPDATE, DELETE and TRUNCATE",
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("kind", Text, nullable=False),
    # NULL for the catalogue, which concerns all users. No foreign key: the row lives for milliseconds.
    Column("user_id", PG_UUID(as_uuid=True)),
    Column("payload", JSONB, nullable=False, comment="{version} or {credit_seq, amount}"),
    created_at(),
    one_of("kind", OUTBOX_KINDS),
    CheckConstraint("(kind = 'catalogue') = (user_id IS NULL)", name="user_unless_catalogue"),
    # One account's entries, right after a change.
    Index("ix_outbox_user_id_id", "user_id", "id"),
    comment="Changes to publish to Redis, written with the change; published rows are deleted",
)

journal_offsets = Table(
    "journal_offsets",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column(
        "last_id",
        Text,
        nullable=False,
        server_default=text("'0-0'"),
        comment="The last stream entry that is applied",
    ),
    updated_at(),
    *not_negative("partition"),
    comment="Journal offsets per partition, advanced in the transaction that applies the entries",
)

journal_poison = Table(
    "journal_poison",
    metadata,
    serial_column(),
    Column("partition", Integer, nullable=False),
    Column("entry_id", Text, nullable=False, comment="The entry's id in the partition's stream"),
    Column("line", LargeBinary, nullable=False, comment="The raw bytes, which may not be text"),
    Column("reason", Text, nullable=False, comment="PostgreSQL's error message"),
    created_at(),
    # An entry that is read again after a crash is stored once.
    UniqueConstraint("partition", "entry_id"),
    *not_negative("partition"),
    comment="Journal entries that PostgreSQL refused; they charged nobody and are stored only here",
)

meter_epochs = Table(
    "meter_epochs",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False, server_default=text("1")),
    moment("started_at", nullable=False, server_default=func.now()),
    Column(
        "name",
        Text,
        nullable=False,
        server_default=text("''"),
        comment="The epoch as Redis has it; a server of Redis that has another one is not used",
    ),
    Column(
        "published",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="How often changes were published from the outbox to the partition",
    ),
    *not_negative("partition", "epoch", "published"),
    comment="Epochs of the Redis partitions; a new one starts when Redis may have lost state",
)
