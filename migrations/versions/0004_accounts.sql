-- What people sign in with, what slows guessing down, and what they are told. The reasons for columns, checks and
-- indexes stand beside their definitions in gateway/ledger/tables/, which a test holds equal to what this file makes.

CREATE INDEX ix_users_deleted_at ON users (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE sessions (
    id UUID NOT NULL,
    user_id UUID NOT NULL,
    address TEXT,
    expires_at TIMESTAMPTZ NOT NULL,
    revoked_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_sessions PRIMARY KEY (id),
    CONSTRAINT fk_sessions_user_id FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE RESTRICT
);

CREATE INDEX ix_sessions_user_id ON sessions (user_id);
CREATE INDEX ix_sessions_expires_at ON sessions (expires_at);

COMMENT ON TABLE sessions IS 'A login and all the tokens that came of it: a family, revoked as one';
COMMENT ON COLUMN sessions.address IS 'Where the login came from; whoever knew the password there is not slowed down';
COMMENT ON COLUMN sessions.expires_at IS 'Moved on by each refresh';

CREATE TABLE refresh_tokens (
    token_hash BYTEA NOT NULL,
    session_id UUID NOT NULL,
    used_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_refresh_tokens PRIMARY KEY (token_hash),
    CONSTRAINT ck_refresh_tokens_token_hash_is_sha256 CHECK (octet_length(token_hash) = 32),
    CONSTRAINT fk_refresh_tokens_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);

CREATE INDEX ix_refresh_tokens_session_id ON refresh_tokens (session_id);

COMMENT ON TABLE refresh_tokens IS 'One of each session is unused; the others tell a thief from an owner';
COMMENT ON COLUMN refresh_tokens.token_hash IS 'SHA-256 of the token, which holds 256 random bits';
COMMENT ON COLUMN refresh_tokens.used_at IS 'A token that comes a second time was stolen: its session is revoked';

CREATE TABLE one_time_tokens (
    id UUID NOT NULL,
    user_id UUID NOT NULL,
    purpose TEXT NOT NULL,
    email TEXT NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    used_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_one_time_tokens PRIMARY KEY (id),
    CONSTRAINT ck_one_time_tokens_purpose CHECK (purpose IN ('verify_email', 'reset_password')),
    CONSTRAINT fk_one_time_tokens_user_id FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE RESTRICT
);

CREATE INDEX ix_one_time_tokens_user_id ON one_time_tokens (user_id);
CREATE INDEX ix_one_time_tokens_expires_at ON one_time_tokens (expires_at);

COMMENT ON TABLE one_time_tokens IS 'Sent by mail. The token is a MAC of the row under a secret that is not here';
COMMENT ON COLUMN one_time_tokens.email IS 'Where it was sent: it proves that address and no other';

CREATE TABLE throttles (
    subject BYTEA NOT NULL,
    free_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT pk_throttles PRIMARY KEY (subject)
);

CREATE INDEX ix_throttles_free_at ON throttles (free_at);

COMMENT ON TABLE throttles IS 'Attempts of late, as one instant each (GCRA)';
COMMENT ON COLUMN throttles.subject IS 'Digest of what is slowed down: an address, an account';
COMMENT ON COLUMN throttles.free_at IS 'When all that was taken is given back; past it, the row says nothing';

CREATE TABLE notices (
    id UUID NOT NULL,
    user_id UUID NOT NULL,
    kind TEXT NOT NULL,
    payload JSONB DEFAULT '{}'::jsonb NOT NULL,
    once TEXT,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_notices PRIMARY KEY (id),
    CONSTRAINT ck_notices_payload_is_an_object CHECK (jsonb_typeof(payload) = 'object'),
    CONSTRAINT fk_notices_user_id FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE RESTRICT,
    CONSTRAINT uq_notices_user_id_once UNIQUE (user_id, once)
);

CREATE INDEX ix_notices_created_at ON notices (created_at) WHERE once IS NULL;

COMMENT ON TABLE notices IS 'What happened that someone should be told, written with the change itself';
COMMENT ON COLUMN notices.kind IS 'Such as credits.threshold';
COMMENT ON COLUMN notices.once IS 'What is noted once for each user, such as a threshold of a period; NULL: each time';

CREATE TABLE notice_deliveries (
    notice_id UUID NOT NULL,
    channel TEXT NOT NULL,
    status TEXT DEFAULT 'pending' NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    due_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    ended_at TIMESTAMPTZ,
    error TEXT,
    CONSTRAINT pk_notice_deliveries PRIMARY KEY (notice_id, channel),
    CONSTRAINT ck_notice_deliveries_channel CHECK (channel IN ('mail', 'webhook')),
    CONSTRAINT ck_notice_deliveries_status CHECK (status IN ('pending', 'delivered', 'dropped', 'failed')),
    CONSTRAINT ck_notice_deliveries_attempts_not_negative CHECK (attempts >= 0),
    CONSTRAINT ck_notice_deliveries_ended_unless_pending CHECK ((status = 'pending') = (ended_at IS NULL)),
    CONSTRAINT fk_notice_deliveries_notice_id FOREIGN KEY(notice_id) REFERENCES notices (id) ON DELETE CASCADE
);

CREATE INDEX ix_notice_deliveries_due_at ON notice_deliveries (due_at) WHERE status = 'pending';

COMMENT ON TABLE notice_deliveries IS 'How the telling of a notice goes by each channel';
COMMENT ON COLUMN notice_deliveries.due_at IS 'While one is under way, when it is lost';
COMMENT ON COLUMN notice_deliveries.error IS 'Why the last attempt failed';
