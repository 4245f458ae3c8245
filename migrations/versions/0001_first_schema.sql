-- The first schema. The reasons for columns, checks and indexes stand beside their definitions in
-- gateway/ledger/tables/, which a test holds equal to what this file makes.

-- Who may call
CREATE TABLE users (
    id UUID NOT NULL,
    email TEXT NOT NULL,
    password_hash TEXT,
    name TEXT,
    company TEXT,
    status TEXT DEFAULT 'active' NOT NULL,
    role TEXT DEFAULT 'user' NOT NULL,
    external_id TEXT,
    email_verified_at TIMESTAMPTZ,
    time_zone TEXT DEFAULT 'UTC' NOT NULL,
    version BIGINT DEFAULT 1 NOT NULL,
    deleted_at TIMESTAMPTZ,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_users PRIMARY KEY (id),
    CONSTRAINT ck_users_status CHECK (status IN ('active', 'suspended')),
    CONSTRAINT ck_users_role CHECK (role IN ('user', 'admin')),
    CONSTRAINT ck_users_email_shape CHECK (position('@' in email) > 1),
    CONSTRAINT uq_users_external_id UNIQUE (external_id)
);

CREATE INDEX ix_users_created_at_id ON users (created_at, id);
CREATE UNIQUE INDEX uq_users_email_lower ON users (lower(email));

COMMENT ON TABLE users IS 'An account: what is limited, charged and billed';
COMMENT ON COLUMN users.password_hash IS 'Argon2id, PHC string; NULL for a user made by an administrator';
COMMENT ON COLUMN users.external_id IS 'The id this user has in the operator''s own system';
COMMENT ON COLUMN users.time_zone IS 'IANA name, for display only';
COMMENT ON COLUMN users.version IS 'Grows with any change of the user, its keys or subscription; decisions on older ones are stale';
COMMENT ON COLUMN users.deleted_at IS 'Set on deletion: the row stays, emptied of personal data, because usage points to it';

CREATE TABLE api_keys (
    id UUID NOT NULL,
    user_id UUID NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    prefix TEXT NOT NULL,
    last4 TEXT NOT NULL,
    key_hash BYTEA NOT NULL,
    pepper_version SMALLINT DEFAULT 1 NOT NULL,
    status TEXT DEFAULT 'active' NOT NULL,
    permissions TEXT[],
    allowed_ips TEXT[] DEFAULT '{}' NOT NULL,
    credit_cap BIGINT,
    expires_at TIMESTAMPTZ,
    last_used_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ,
    rotated_from UUID,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT ck_api_keys_status CHECK (status IN ('active', 'disabled', 'revoked')),
    CONSTRAINT ck_api_keys_key_hash_is_sha256 CHECK (octet_length(key_hash) = 32),
    CONSTRAINT ck_api_keys_revoked_at_when_revoked CHECK ((status = 'revoked') = (revoked_at IS NOT NULL)),
    CONSTRAINT ck_api_keys_credit_cap_not_negative CHECK (credit_cap >= 0),
    CONSTRAINT fk_api_keys_user_id FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE RESTRICT,
    CONSTRAINT uq_api_keys_key_hash UNIQUE (key_hash),
    CONSTRAINT fk_api_keys_rotated_from FOREIGN KEY(rotated_from) REFERENCES api_keys (id) ON DELETE SET NULL
);

CREATE INDEX ix_api_keys_created_at_id ON api_keys (created_at, id);
CREATE INDEX ix_api_keys_rotated_from ON api_keys (rotated_from) WHERE rotated_from IS NOT NULL;
CREATE INDEX ix_api_keys_user_id_created_at_id ON api_keys (user_id, created_at, id);

COMMENT ON TABLE api_keys IS 'API keys. The secret is shown once and never stored';
COMMENT ON COLUMN api_keys.prefix IS 'The first characters of the key, to recognise it by';
COMMENT ON COLUMN api_keys.key_hash IS 'HMAC-SHA-256 of the key under the pepper';
COMMENT ON COLUMN api_keys.status IS 'Expiry is not a status: see expires_at';
COMMENT ON COLUMN api_keys.permissions IS 'NULL: every permission of the plan';
COMMENT ON COLUMN api_keys.allowed_ips IS 'CIDRs; empty: from anywhere';
COMMENT ON COLUMN api_keys.credit_cap IS 'Credits this key may spend in a period; NULL: all of the account''s';
COMMENT ON COLUMN api_keys.last_used_at IS 'Written in batches, some seconds late';

CREATE TABLE admin_tokens (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    token_hash BYTEA NOT NULL,
    scopes TEXT[] NOT NULL,
    expires_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ,
    last_used_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_admin_tokens PRIMARY KEY (id),
    CONSTRAINT uq_admin_tokens_name UNIQUE (name),
    CONSTRAINT uq_admin_tokens_token_hash UNIQUE (token_hash)
);

COMMENT ON TABLE admin_tokens IS 'Scoped tokens of the admin API; the root token comes from the environment and is not here';
COMMENT ON COLUMN admin_tokens.scopes IS 'keys:write, credits:write, read, ...';

-- What is sold
CREATE TABLE products (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    is_active BOOLEAN DEFAULT true NOT NULL,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_products PRIMARY KEY (id),
    CONSTRAINT uq_products_name UNIQUE (name)
);

COMMENT ON TABLE products IS 'What plans are plans of';

CREATE TABLE subscription_plans (
    id TEXT NOT NULL,
    product_id UUID,
    name TEXT NOT NULL,
    description TEXT,
    version BIGINT DEFAULT 1 NOT NULL,
    price NUMERIC NOT NULL,
    currency TEXT DEFAULT 'USD' NOT NULL,
    pricing_model TEXT DEFAULT 'flat' NOT NULL,
    billing_interval TEXT DEFAULT 'month' NOT NULL,
    billing_interval_count INTEGER DEFAULT 1 NOT NULL,
    trial_period_days INTEGER DEFAULT 0 NOT NULL,
    credits_per_period BIGINT DEFAULT 0 NOT NULL,
    credits_rollover BOOLEAN DEFAULT false NOT NULL,
    requests_per_minute INTEGER,
    requests_per_hour INTEGER,
    max_api_calls_per_day INTEGER,
    max_products_per_batch INTEGER,
    max_concurrent_requests INTEGER,
    max_file_size_bytes BIGINT,
    features JSONB DEFAULT '{}'::jsonb NOT NULL,
    stripe_price_id TEXT,
    lemon_squeezy_variant_id TEXT,
    lemon_squeezy_product_id TEXT,
    is_active BOOLEAN DEFAULT true NOT NULL,
    sort_order INTEGER DEFAULT 0 NOT NULL,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_subscription_plans PRIMARY KEY (id),
    CONSTRAINT ck_subscription_plans_currency_iso_4217 CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT ck_subscription_plans_pricing_model CHECK (pricing_model IN ('flat', 'per_seat', 'tiered', 'volume', 'usage')),
    CONSTRAINT ck_subscription_plans_billing_interval CHECK (billing_interval IN ('day', 'week', 'month', 'year')),
    CONSTRAINT ck_subscription_plans_id_is_a_word CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    CONSTRAINT ck_subscription_plans_features_is_an_object CHECK (jsonb_typeof(features) = 'object'),
    CONSTRAINT ck_subscription_plans_billing_interval_count_positive CHECK (billing_interval_count > 0),
    CONSTRAINT ck_subscription_plans_price_not_negative CHECK (price >= 0),
    CONSTRAINT ck_subscription_plans_trial_period_days_not_negative CHECK (trial_period_days >= 0),
    CONSTRAINT ck_subscription_plans_credits_per_period_not_negative CHECK (credits_per_period >= 0),
    CONSTRAINT ck_subscription_plans_requests_per_minute_not_negative CHECK (requests_per_minute >= 0),
    CONSTRAINT ck_subscription_plans_requests_per_hour_not_negative CHECK (requests_per_hour >= 0),
    CONSTRAINT ck_subscription_plans_max_api_calls_per_day_not_negative CHECK (max_api_calls_per_day >= 0),
    CONSTRAINT ck_subscription_plans_max_products_per_batch_not_negative CHECK (max_products_per_batch >= 0),
    CONSTRAINT ck_subscription_plans_max_concurrent_requests_not_negative CHECK (max_concurrent_requests >= 0),
    CONSTRAINT ck_subscription_plans_max_file_size_bytes_not_negative CHECK (max_file_size_bytes >= 0),
    CONSTRAINT fk_subscription_plans_product_id FOREIGN KEY(product_id) REFERENCES products (id) ON DELETE RESTRICT,
    CONSTRAINT uq_subscription_plans_name UNIQUE (name),
    CONSTRAINT uq_subscription_plans_stripe_price_id UNIQUE (stripe_price_id),
    CONSTRAINT uq_subscription_plans_lemon_squeezy_variant_id UNIQUE (lemon_squeezy_variant_id)
);

CREATE INDEX ix_subscription_plans_product_id ON subscription_plans (product_id);

COMMENT ON TABLE subscription_plans IS 'A plan: price, credits, limits and features. NULL limits are no limits';
COMMENT ON COLUMN subscription_plans.id IS 'A word such as pro, given at creation and never changed';
COMMENT ON COLUMN subscription_plans.version IS 'Grows with every change of the plan';
COMMENT ON COLUMN subscription_plans.price IS 'Per billing interval';
COMMENT ON COLUMN subscription_plans.credits_rollover IS 'Whether what is left of a period''s credits outlives the period';
COMMENT ON COLUMN subscription_plans.requests_per_minute IS 'NULL: no limit';
COMMENT ON COLUMN subscription_plans.requests_per_hour IS 'NULL: no limit';
COMMENT ON COLUMN subscription_plans.max_api_calls_per_day IS 'NULL: no limit';
COMMENT ON COLUMN subscription_plans.max_products_per_batch IS 'NULL: no limit';
COMMENT ON COLUMN subscription_plans.max_concurrent_requests IS 'NULL: no limit';
COMMENT ON COLUMN subscription_plans.max_file_size_bytes IS 'NULL: no limit';
COMMENT ON COLUMN subscription_plans.features IS 'Feature name -> true, or a number or word that means something to the upstream';
COMMENT ON COLUMN subscription_plans.is_active IS 'False: no new subscriptions';

CREATE TABLE pricing_tiers (
    id UUID NOT NULL,
    plan_id TEXT NOT NULL,
    up_to BIGINT,
    unit_price NUMERIC NOT NULL,
    flat_price NUMERIC DEFAULT 0 NOT NULL,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_pricing_tiers PRIMARY KEY (id),
    CONSTRAINT ck_pricing_tiers_up_to_positive CHECK (up_to > 0),
    CONSTRAINT ck_pricing_tiers_unit_price_not_negative CHECK (unit_price >= 0),
    CONSTRAINT ck_pricing_tiers_flat_price_not_negative CHECK (flat_price >= 0),
    CONSTRAINT fk_pricing_tiers_plan_id FOREIGN KEY(plan_id) REFERENCES subscription_plans (id) ON DELETE CASCADE
);

CREATE UNIQUE INDEX uq_pricing_tiers_plan_id_up_to ON pricing_tiers (plan_id, coalesce(up_to, 9223372036854775807));

COMMENT ON TABLE pricing_tiers IS 'Tiers of plans priced tiered or volume';
COMMENT ON COLUMN pricing_tiers.up_to IS 'Last unit of the tier; NULL: the rest';

CREATE TABLE permissions (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_permissions PRIMARY KEY (id),
    CONSTRAINT uq_permissions_name UNIQUE (name)
);

COMMENT ON TABLE permissions IS 'Named rights that routes ask for';

CREATE TABLE plan_permissions (
    plan_id TEXT NOT NULL,
    permission_id UUID NOT NULL,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_plan_permissions PRIMARY KEY (plan_id, permission_id),
    CONSTRAINT fk_plan_permissions_plan_id FOREIGN KEY(plan_id) REFERENCES subscription_plans (id) ON DELETE CASCADE,
    CONSTRAINT fk_plan_permissions_permission_id FOREIGN KEY(permission_id) REFERENCES permissions (id) ON DELETE CASCADE
);

CREATE INDEX ix_plan_permissions_permission_id ON plan_permissions (permission_id);

COMMENT ON TABLE plan_permissions IS 'Which plan grants which permission';

CREATE TABLE catalogue (
    id SMALLINT DEFAULT 1 NOT NULL,
    version BIGINT NOT NULL,
    CONSTRAINT pk_catalogue PRIMARY KEY (id),
    CONSTRAINT ck_catalogue_one_row CHECK (id = 1)
);

COMMENT ON TABLE catalogue IS 'One row: the version of all plans and permissions together, bumped in the transaction that changes any';

-- What was agreed to and paid
CREATE TABLE subscriptions (
    id UUID NOT NULL,
    user_id UUID NOT NULL,
    plan_id TEXT NOT NULL,
    plan_version BIGINT NOT NULL,
    status TEXT NOT NULL,
    quantity INTEGER DEFAULT 1 NOT NULL,
    provider TEXT DEFAULT 'manual' NOT NULL,
    provider_subscription_id TEXT,
    current_period_start TIMESTAMPTZ NOT NULL,
    current_period_end TIMESTAMPTZ NOT NULL,
    cancel_at_period_end BOOLEAN DEFAULT false NOT NULL,
    canceled_at TIMESTAMPTZ,
    trial_start TIMESTAMPTZ,
    trial_end TIMESTAMPTZ,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_subscriptions PRIMARY KEY (id),
    CONSTRAINT ck_subscriptions_status CHECK (status IN ('incomplete', 'trialing', 'active', 'past_due', 'paused', 'canceled', 'expired')),
    CONSTRAINT ck_subscriptions_provider CHECK (provider IN ('stripe', 'lemon_squeezy', 'manual')),
    CONSTRAINT ck_subscriptions_quantity_positive CHECK (quantity > 0),
    CONSTRAINT ck_subscriptions_period_order CHECK (current_period_end > current_period_start),
    CONSTRAINT ck_subscriptions_trial_order CHECK (trial_end > trial_start),
    CONSTRAINT uq_subscriptions_provider_provider_subscription_id UNIQUE (provider, provider_subscription_id),
    CONSTRAINT fk_subscriptions_user_id FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE RESTRICT,
    CONSTRAINT fk_subscriptions_plan_id FOREIGN KEY(plan_id) REFERENCES subscription_plans (id) ON DELETE RESTRICT
);

CREATE INDEX ix_subscriptions_current_period_end ON subscriptions (current_period_end) WHERE status IN ('trialing', 'active', 'past_due', 'paused');
CREATE INDEX ix_subscriptions_plan_id ON subscriptions (plan_id);
CREATE INDEX ix_subscriptions_user_id_created_at ON subscriptions (user_id, created_at);
CREATE UNIQUE INDEX uq_subscriptions_current ON subscriptions (user_id) WHERE status IN ('trialing', 'active', 'past_due', 'paused');

COMMENT ON TABLE subscriptions IS 'Who is on which plan, until when';
COMMENT ON COLUMN subscriptions.plan_version IS 'The version of the plan that was agreed to';
COMMENT ON COLUMN subscriptions.quantity IS 'Seats, where the plan is per seat';

CREATE TABLE provider_customers (
    id UUID NOT NULL,
    user_id UUID NOT NULL,
    provider TEXT NOT NULL,
    provider_customer_id TEXT NOT NULL,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_provider_customers PRIMARY KEY (id),
    CONSTRAINT ck_provider_customers_provider CHECK (provider IN ('stripe', 'lemon_squeezy', 'manual')),
    CONSTRAINT uq_provider_customers_provider_provider_customer_id UNIQUE (provider, provider_customer_id),
    CONSTRAINT uq_provider_customers_user_id_provider UNIQUE (user_id, provider),
    CONSTRAINT fk_provider_customers_user_id FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE RESTRICT
);

COMMENT ON TABLE provider_customers IS 'A user''s name at a payment provider';

CREATE TABLE invoices (
    id UUID NOT NULL,
    number BIGINT,
    user_id UUID NOT NULL,
    subscription_id UUID,
    status TEXT DEFAULT 'draft' NOT NULL,
    currency TEXT DEFAULT 'USD' NOT NULL,
    subtotal NUMERIC NOT NULL,
    tax NUMERIC DEFAULT 0 NOT NULL,
    total NUMERIC NOT NULL,
    lines JSONB DEFAULT '[]'::jsonb NOT NULL,
    period_start TIMESTAMPTZ,
    period_end TIMESTAMPTZ,
    issued_at TIMESTAMPTZ,
    paid_at TIMESTAMPTZ,
    provider TEXT DEFAULT 'manual' NOT NULL,
    provider_invoice_id TEXT,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_invoices PRIMARY KEY (id),
    CONSTRAINT ck_invoices_currency_iso_4217 CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT ck_invoices_status CHECK (status IN ('draft', 'open', 'paid', 'void', 'uncollectible')),
    CONSTRAINT ck_invoices_provider CHECK (provider IN ('stripe', 'lemon_squeezy', 'manual')),
    CONSTRAINT ck_invoices_number_positive CHECK (number > 0),
    CONSTRAINT ck_invoices_total_is_the_sum CHECK (total = subtotal + tax),
    CONSTRAINT ck_invoices_numbered_when_issued CHECK (status = 'draft' OR number IS NOT NULL),
    CONSTRAINT ck_invoices_lines_is_an_array CHECK (jsonb_typeof(lines) = 'array'),
    CONSTRAINT uq_invoices_provider_provider_invoice_id UNIQUE (provider, provider_invoice_id),
    CONSTRAINT uq_invoices_number UNIQUE (number),
    CONSTRAINT fk_invoices_user_id FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE RESTRICT,
    CONSTRAINT fk_invoices_subscription_id FOREIGN KEY(subscription_id) REFERENCES subscriptions (id) ON DELETE RESTRICT
);

CREATE INDEX ix_invoices_subscription_id ON invoices (subscription_id);
CREATE INDEX ix_invoices_user_id_created_at_id ON invoices (user_id, created_at, id);

COMMENT ON TABLE invoices IS 'What was asked for; an issued invoice is never deleted';
COMMENT ON COLUMN invoices.number IS 'Gapless, in order of issue; NULL while a draft';

CREATE TABLE payment_transactions (
    id UUID NOT NULL,
    user_id UUID NOT NULL,
    subscription_id UUID,
    plan_id TEXT,
    invoice_id UUID,
    provider TEXT NOT NULL,
    provider_payment_id TEXT,
    transaction_type TEXT NOT NULL,
    status TEXT NOT NULL,
    amount NUMERIC NOT NULL,
    refunded_amount NUMERIC DEFAULT 0 NOT NULL,
    currency TEXT DEFAULT 'USD' NOT NULL,
    payment_method TEXT,
    credits_awarded BIGINT DEFAULT 0 NOT NULL,
    description TEXT,
    error_message TEXT,
    processed_at TIMESTAMPTZ,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_payment_transactions PRIMARY KEY (id),
    CONSTRAINT ck_payment_transactions_currency_iso_4217 CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT ck_payment_transactions_provider CHECK (provider IN ('stripe', 'lemon_squeezy', 'manual')),
    CONSTRAINT ck_payment_transactions_transaction_type CHECK (transaction_type IN ('subscription', 'credits', 'refund', 'dispute')),
    CONSTRAINT ck_payment_transactions_status CHECK (status IN ('pending', 'completed', 'failed', 'refunded', 'partially_refunded', 'disputed')),
    CONSTRAINT ck_payment_transactions_amount_not_negative CHECK (amount >= 0),
    CONSTRAINT ck_payment_transactions_refunded_amount_not_negative CHECK (refunded_amount >= 0),
    CONSTRAINT ck_payment_transactions_credits_awarded_not_negative CHECK (credits_awarded >= 0),
    CONSTRAINT ck_payment_transactions_refunded_within_amount CHECK (refunded_amount <= amount),
    CONSTRAINT uq_payment_transactions_provider_provider_payment_id UNIQUE (provider, provider_payment_id),
    CONSTRAINT fk_payment_transactions_user_id FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE RESTRICT,
    CONSTRAINT fk_payment_transactions_subscription_id FOREIGN KEY(subscription_id) REFERENCES subscriptions (id) ON DELETE RESTRICT,
    CONSTRAINT fk_payment_transactions_plan_id FOREIGN KEY(plan_id) REFERENCES subscription_plans (id) ON DELETE RESTRICT,
    CONSTRAINT fk_payment_transactions_invoice_id FOREIGN KEY(invoice_id) REFERENCES invoices (id) ON DELETE RESTRICT
);

CREATE INDEX ix_payment_transactions_created_at_id ON payment_transactions (created_at, id);
CREATE INDEX ix_payment_transactions_invoice_id ON payment_transactions (invoice_id);
CREATE INDEX ix_payment_transactions_subscription_id ON payment_transactions (subscription_id);
CREATE INDEX ix_payment_transactions_user_id_created_at_id ON payment_transactions (user_id, created_at, id);

COMMENT ON TABLE payment_transactions IS 'Money that moved, or tried to';

CREATE TABLE webhook_events (
    id UUID NOT NULL,
    provider TEXT NOT NULL,
    provider_event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    status TEXT DEFAULT 'received' NOT NULL,
    payload JSONB NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    error_message TEXT,
    occurred_at TIMESTAMPTZ,
    next_attempt_at TIMESTAMPTZ,
    processed_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_webhook_events PRIMARY KEY (id),
    CONSTRAINT ck_webhook_events_provider CHECK (provider IN ('stripe', 'lemon_squeezy', 'manual')),
    CONSTRAINT ck_webhook_events_status CHECK (status IN ('received', 'processed', 'ignored', 'failed')),
    CONSTRAINT ck_webhook_events_attempts_not_negative CHECK (attempts >= 0),
    CONSTRAINT uq_webhook_events_provider_provider_event_id UNIQUE (provider, provider_event_id)
);

CREATE INDEX ix_webhook_events_created_at_id ON webhook_events (created_at, id);
CREATE INDEX ix_webhook_events_due ON webhook_events (next_attempt_at) WHERE status IN ('received', 'failed');

COMMENT ON TABLE webhook_events IS 'An inbox: events are stored before they are acted on';
COMMENT ON COLUMN webhook_events.provider_event_id IS 'The provider''s id, or a digest of the body where it has none';
COMMENT ON COLUMN webhook_events.occurred_at IS 'By the provider''s clock; events arrive out of order';

-- Credits
CREATE TABLE user_credits (
    user_id UUID NOT NULL,
    current_credits BIGINT DEFAULT 0 NOT NULL,
    total_credits_purchased BIGINT DEFAULT 0 NOT NULL,
    total_credits_used BIGINT DEFAULT 0 NOT NULL,
    total_credits_expired BIGINT DEFAULT 0 NOT NULL,
    credits_used_this_period BIGINT DEFAULT 0 NOT NULL,
    credit_seq BIGINT DEFAULT 0 NOT NULL,
    period_start TIMESTAMPTZ,
    period_end TIMESTAMPTZ,
    last_credit_refill TIMESTAMPTZ,
    next_credit_refill TIMESTAMPTZ,
    subscription_id UUID,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_user_credits PRIMARY KEY (user_id),
    CONSTRAINT ck_user_credits_total_credits_purchased_not_negative CHECK (total_credits_purchased >= 0),
    CONSTRAINT ck_user_credits_total_credits_used_not_negative CHECK (total_credits_used >= 0),
    CONSTRAINT ck_user_credits_total_credits_expired_not_negative CHECK (total_credits_expired >= 0),
    CONSTRAINT ck_user_credits_credits_used_this_period_not_negative CHECK (credits_used_this_period >= 0),
    CONSTRAINT ck_user_credits_credit_seq_not_negative CHECK (credit_seq >= 0),
    CONSTRAINT fk_user_credits_user_id FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE RESTRICT,
    CONSTRAINT fk_user_credits_subscription_id FOREIGN KEY(subscription_id) REFERENCES subscriptions (id) ON DELETE SET NULL
);

CREATE INDEX ix_user_credits_next_credit_refill ON user_credits (next_credit_refill) WHERE next_credit_refill IS NOT NULL;

COMMENT ON TABLE user_credits IS 'One row a user; its row lock orders every movement of the account''s credits';
COMMENT ON COLUMN user_credits.current_credits IS 'May be negative: a charge above the hold is taken in full';
COMMENT ON COLUMN user_credits.total_credits_purchased IS 'All grants of source purchase, ever';
COMMENT ON COLUMN user_credits.credit_seq IS 'Counts the changes that PostgreSQL must push to the hot copy (grant, adjustment, expiry), never usage';

CREATE TABLE credit_grants (
    id UUID NOT NULL,
    user_id UUID NOT NULL,
    source TEXT NOT NULL,
    amount BIGINT NOT NULL,
    remaining BIGINT NOT NULL,
    priority SMALLINT DEFAULT 50 NOT NULL,
    effective_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ,
    reason TEXT,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_credit_grants PRIMARY KEY (id),
    CONSTRAINT ck_credit_grants_source CHECK (source IN ('plan', 'trial', 'purchase', 'promo', 'admin')),
    CONSTRAINT ck_credit_grants_amount_positive CHECK (amount > 0),
    CONSTRAINT ck_credit_grants_remaining_within_amount CHECK (remaining BETWEEN 0 AND amount),
    CONSTRAINT ck_credit_grants_expires_after_it_begins CHECK (expires_at > effective_at),
    CONSTRAINT fk_credit_grants_user_id FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE RESTRICT
);

CREATE INDEX ix_credit_grants_expiring ON credit_grants (expires_at) WHERE remaining > 0 AND expires_at IS NOT NULL;
CREATE INDEX ix_credit_grants_open ON credit_grants (user_id, priority, expires_at, id) WHERE remaining > 0;
CREATE INDEX ix_credit_grants_user_id_created_at ON credit_grants (user_id, created_at);

COMMENT ON TABLE credit_grants IS 'Credits given, each with its own end; what is left of them is the balance';
COMMENT ON COLUMN credit_grants.priority IS 'Lower burns first';
COMMENT ON COLUMN credit_grants.expires_at IS 'NULL: never';

CREATE TABLE credit_ledger (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    user_id UUID NOT NULL,
    kind TEXT NOT NULL,
    amount BIGINT NOT NULL,
    balance_after BIGINT NOT NULL,
    grant_id UUID,
    reason TEXT,
    actor TEXT NOT NULL,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_credit_ledger PRIMARY KEY (id),
    CONSTRAINT ck_credit_ledger_kind CHECK (kind IN ('grant', 'usage', 'refund', 'expiry', 'adjustment', 'clawback')),
    CONSTRAINT ck_credit_ledger_amount_sign CHECK (amount <> 0 AND CASE WHEN kind IN ('grant', 'refund') THEN amount > 0 WHEN kind IN ('usage', 'expiry', 'clawback') THEN amount < 0 ELSE true END),
    CONSTRAINT fk_credit_ledger_user_id FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE RESTRICT,
    CONSTRAINT fk_credit_ledger_grant_id FOREIGN KEY(grant_id) REFERENCES credit_grants (id) ON DELETE RESTRICT
);

CREATE INDEX ix_credit_ledger_grant_id ON credit_ledger (grant_id) WHERE grant_id IS NOT NULL;
CREATE INDEX ix_credit_ledger_user_id_id ON credit_ledger (user_id, id);

COMMENT ON TABLE credit_ledger IS 'Every movement of credits. Append-only: a trigger refuses UPDATE, DELETE and TRUNCATE';
COMMENT ON COLUMN credit_ledger.amount IS 'Signed: what the movement did to the balance';
COMMENT ON COLUMN credit_ledger.actor IS 'Who did it: user:ID, admin:NAME, worker:NAME, provider:NAME';

-- What happened
CREATE TABLE usage_tracking (
    request_id UUID NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    user_id UUID NOT NULL,
    api_key_id UUID,
    subscription_id UUID,
    plan_id TEXT,
    endpoint TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    usage_type TEXT NOT NULL,
    outcome TEXT NOT NULL,
    status_code SMALLINT,
    error_code TEXT,
    credits_charged BIGINT DEFAULT 0 NOT NULL,
    product_count INTEGER DEFAULT 1 NOT NULL,
    tokens_used BIGINT,
    cost_usd NUMERIC(12, 6),
    language_code TEXT,
    category TEXT,
    batch_id TEXT,
    request_bytes BIGINT,
    response_bytes BIGINT,
    file_size_bytes BIGINT,
    response_time_ms INTEGER,
    upstream_time_ms INTEGER,
    client_ip TEXT,
    client_request_id TEXT,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT pk_usage_tracking PRIMARY KEY (request_id, created_at),
    CONSTRAINT ck_usage_tracking_outcome CHECK (outcome IN ('succeeded', 'upstream_error', 'upstream_unreachable', 'upstream_timeout', 'upstream_invalid', 'client_aborted', 'abandoned')),
    CONSTRAINT ck_usage_tracking_credits_charged_not_negative CHECK (credits_charged >= 0),
    CONSTRAINT ck_usage_tracking_product_count_not_negative CHECK (product_count >= 0)
) PARTITION BY RANGE (created_at);

CREATE INDEX ix_usage_tracking_created_at ON usage_tracking (created_at, request_id);
CREATE INDEX ix_usage_tracking_user_id_created_at ON usage_tracking (user_id, created_at, request_id);

COMMENT ON TABLE usage_tracking IS 'One row per admitted request, by month; rows of no month''s partition land in the default one';
COMMENT ON COLUMN usage_tracking.created_at IS 'When the request was admitted, by the Redis clock';
COMMENT ON COLUMN usage_tracking.endpoint IS 'The name of the route';
COMMENT ON COLUMN usage_tracking.path IS 'Canonical, without the query';
COMMENT ON COLUMN usage_tracking.status_code IS 'What the client was sent; NULL where it was sent nothing';
COMMENT ON COLUMN usage_tracking.product_count IS 'Items that the price counted, else 1';

CREATE TABLE analysis_history (
    id UUID NOT NULL,
    request_id UUID NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    user_id UUID NOT NULL,
    api_key_id UUID,
    subscription_id UUID,
    analysis_type TEXT NOT NULL,
    file_name TEXT,
    file_size_bytes BIGINT,
    file_sha256 TEXT,
    content_type TEXT,
    status TEXT NOT NULL,
    response_time_ms INTEGER,
    credits_charged BIGINT DEFAULT 0 NOT NULL,
    result_summary JSONB DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT pk_analysis_history PRIMARY KEY (id, created_at),
    CONSTRAINT ck_analysis_history_status CHECK (status IN ('succeeded', 'upstream_error', 'upstream_unreachable', 'upstream_timeout', 'upstream_invalid', 'client_aborted', 'abandoned')),
    CONSTRAINT ck_analysis_history_credits_charged_not_negative CHECK (credits_charged >= 0)
) PARTITION BY RANGE (created_at);

CREATE INDEX ix_analysis_history_created_at ON analysis_history (created_at, id);
CREATE INDEX ix_analysis_history_user_id_created_at ON analysis_history (user_id, created_at, id);

COMMENT ON TABLE analysis_history IS 'One row per admitted request of usage type analysis, by month as usage_tracking';
COMMENT ON COLUMN analysis_history.id IS 'Equal to request_id: one row per request';
COMMENT ON COLUMN analysis_history.analysis_type IS 'The name of the route';
COMMENT ON COLUMN analysis_history.file_sha256 IS 'Lower-case hex';

CREATE TABLE refused_requests (
    api_key_id UUID NOT NULL,
    endpoint TEXT NOT NULL,
    code TEXT NOT NULL,
    minute TIMESTAMPTZ NOT NULL,
    count BIGINT NOT NULL,
    CONSTRAINT pk_refused_requests PRIMARY KEY (api_key_id, endpoint, code, minute),
    CONSTRAINT ck_refused_requests_count_positive CHECK (count > 0),
    CONSTRAINT ck_refused_requests_minute_is_whole CHECK (extract(second FROM minute) = 0),
    CONSTRAINT fk_refused_requests_api_key_id FOREIGN KEY(api_key_id) REFERENCES api_keys (id) ON DELETE CASCADE
);

CREATE INDEX ix_refused_requests_minute ON refused_requests (minute);

COMMENT ON TABLE refused_requests IS 'Requests of known keys that were refused, counted per minute';
COMMENT ON COLUMN refused_requests.code IS 'The code of the problem document';

CREATE TABLE audit_log (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    entity TEXT NOT NULL,
    entity_id TEXT NOT NULL,
    before JSONB,
    after JSONB,
    reason TEXT,
    prev_hash BYTEA,
    hash BYTEA,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_audit_log PRIMARY KEY (id)
);

CREATE INDEX ix_audit_log_entity_entity_id_id ON audit_log (entity, entity_id, id);

COMMENT ON TABLE audit_log IS 'Who changed what. Append-only: a trigger refuses UPDATE, DELETE and TRUNCATE';
COMMENT ON COLUMN audit_log.prev_hash IS 'The hash of the row before';

-- The queues between PostgreSQL and Redis
CREATE TABLE outbox (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    kind TEXT NOT NULL,
    user_id UUID,
    payload JSONB NOT NULL,
    created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_outbox PRIMARY KEY (id),
    CONSTRAINT ck_outbox_kind CHECK (kind IN ('account', 'credits', 'catalogue')),
    CONSTRAINT ck_outbox_user_unless_catalogue CHECK ((kind = 'catalogue') = (user_id IS NULL))
);

CREATE INDEX ix_outbox_user_id_id ON outbox (user_id, id);

COMMENT ON TABLE outbox IS 'What Redis has still to be told, written with the change itself; a row is deleted once it was told';
COMMENT ON COLUMN outbox.payload IS '{version} or {credit_seq, amount}';

CREATE TABLE journal_offsets (
    partition INTEGER NOT NULL,
    last_id TEXT DEFAULT '0-0' NOT NULL,
    updated_at TIMESTAMPTZ DEFAULT now() NOT NULL,
    CONSTRAINT pk_journal_offsets PRIMARY KEY (partition),
    CONSTRAINT ck_journal_offsets_partition_not_negative CHECK (partition >= 0)
);

COMMENT ON TABLE journal_offsets IS 'How far each partition''s journal is applied; moved in the transaction that applies it';
COMMENT ON COLUMN journal_offsets.last_id IS 'The last stream entry whose rows are here';

-- No row is ever refused for want of a partition: gateway/ledger/db/month_partitions.py moves early comers into their month.
CREATE TABLE usage_tracking_default PARTITION OF usage_tracking DEFAULT;

CREATE TABLE analysis_history_default PARTITION OF analysis_history DEFAULT;

INSERT INTO catalogue (version) VALUES (1);

-- Books are written forwards only; a mistake is corrected by another row.
CREATE FUNCTION refuse_to_rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON credit_ledger
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite();

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite();
