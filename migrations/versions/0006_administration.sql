-- Imported keys
ALTER TABLE api_keys
    ADD COLUMN hash_scheme TEXT DEFAULT 'hmac-sha256' NOT NULL,
    ADD COLUMN is_foreign BOOLEAN DEFAULT false NOT NULL,
    ADD CONSTRAINT ck_api_keys_hash_scheme CHECK (hash_scheme IN ('hmac-sha256', 'sha256'));

CREATE INDEX ix_api_keys_prefix ON api_keys (prefix) WHERE is_foreign;

COMMENT ON COLUMN api_keys.hash_scheme IS 'sha256: imported so, and made an HMAC when the key is first used';
COMMENT ON COLUMN api_keys.is_foreign IS 'Imported from another system: without our form and checksum';

-- Admin tokens: nothing has made one before this revision
ALTER TABLE admin_tokens
    ADD COLUMN prefix TEXT NOT NULL,
    ADD COLUMN last4 TEXT NOT NULL;

COMMENT ON COLUMN admin_tokens.prefix IS 'The first characters of the token, to recognise it by';
COMMENT ON COLUMN admin_tokens.token_hash IS 'HMAC-SHA-256 of it under a pepper';

-- The chain of the audit log
ALTER TABLE audit_log ALTER COLUMN id DROP IDENTITY;
ALTER TABLE audit_log ADD COLUMN pepper_version SMALLINT;

COMMENT ON COLUMN audit_log.id IS 'Without gaps, in the order of commits';
COMMENT ON COLUMN audit_log.hash IS 'HMAC-SHA-256 of prev_hash and the row; NULL in rows older than the chain';
COMMENT ON COLUMN audit_log.pepper_version IS 'Of the pepper that the key of the hash is derived from';

CREATE TABLE audit_head (
    id SMALLINT DEFAULT 1 NOT NULL,
    last_id BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    unsealed_until BIGINT NOT NULL,
    mac BYTEA,
    pepper_version SMALLINT,
    updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_audit_head PRIMARY KEY (id),
    CONSTRAINT ck_audit_head_one_row CHECK (id = 1)
);

COMMENT ON TABLE audit_head IS 'One row: where the chain of audit_log ends. Its lock orders those who append';
COMMENT ON COLUMN audit_head.last_id IS 'The newest row of audit_log; the next one follows without a gap';
COMMENT ON COLUMN audit_head.hash IS 'Of that row';
COMMENT ON COLUMN audit_head.unsealed_until IS 'The last row that is older than the chain';
COMMENT ON COLUMN audit_head.mac IS 'HMAC-SHA-256 of this row: with no key, nobody moves the end back';

INSERT INTO audit_head (last_id, hash, unsealed_until)
SELECT coalesce(max(id), 0), decode(repeat('00', 32), 'hex'), coalesce(max(id), 0) FROM audit_log;

CREATE TABLE audit_personal (
    audit_id BIGINT NOT NULL,
    user_id UUID NOT NULL,
    salt BYTEA NOT NULL,
    before JSONB,
    after JSONB,
    CONSTRAINT pk_audit_personal PRIMARY KEY (audit_id)
);

CREATE INDEX ix_audit_personal_user_id ON audit_personal (user_id);

COMMENT ON TABLE audit_personal IS 'The personal data of audit_log, apart from it, so that it can be erased and the chain still holds';
COMMENT ON COLUMN audit_personal.salt IS 'Of the digests in audit_log; gone with the data';

-- Answers to repeat
CREATE TABLE idempotent_requests (
    caller TEXT NOT NULL,
    key_hash BYTEA NOT NULL,
    fingerprint BYTEA NOT NULL,
    nonce BYTEA NOT NULL,
    status_code SMALLINT,
    media_type TEXT,
    body BYTEA,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_idempotent_requests PRIMARY KEY (caller, key_hash)
);

CREATE INDEX ix_idempotent_requests_created_at ON idempotent_requests (created_at);

COMMENT ON TABLE idempotent_requests IS 'Answers of the admin API by Idempotency-Key, written with the change itself and kept for a day';
COMMENT ON COLUMN idempotent_requests.caller IS 'Whose key it is: keys of two callers never meet';
COMMENT ON COLUMN idempotent_requests.key_hash IS 'SHA-256 of the Idempotency-Key';
COMMENT ON COLUMN idempotent_requests.fingerprint IS 'SHA-256 of method, target and body';
COMMENT ON COLUMN idempotent_requests.nonce IS 'Secrets of the answer are derived from it and the key, not kept';
COMMENT ON COLUMN idempotent_requests.status_code IS 'NULL while the request runs';
