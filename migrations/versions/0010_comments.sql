-- The comments of tables and columns, reworded.

COMMENT ON TABLE admin_tokens IS
    'Scoped tokens of the admin API; the root token comes from the environment';
COMMENT ON COLUMN admin_tokens.prefix IS
    'The first characters of the token, which identify it to people';
COMMENT ON COLUMN admin_tokens.token_hash IS
    'HMAC-SHA-256 of the token under a pepper';
COMMENT ON TABLE analysis_history IS
    'One row per admitted request of usage type analysis, in month partitions';
COMMENT ON COLUMN analysis_history.id IS
    'Equal to request_id';
COMMENT ON TABLE audit_head IS
    'One row: the end of the chain of audit_log. Its lock serializes appends';
COMMENT ON COLUMN audit_head.last_id IS
    'The newest row of audit_log; the next one has the next number';
COMMENT ON COLUMN audit_head.hash IS
    'The hash of that row';
COMMENT ON COLUMN audit_head.unsealed_until IS
    'The last row before the chain';
COMMENT ON COLUMN audit_head.mac IS
    'HMAC-SHA-256 of this row: without the key, nobody can move the end back';
COMMENT ON COLUMN audit_log.id IS
    'Gapless, in the order of commits';
COMMENT ON COLUMN audit_log.prev_hash IS
    'The hash of the previous row';
COMMENT ON COLUMN audit_log.hash IS
    'HMAC-SHA-256 of prev_hash and the row; NULL in rows before the chain';
COMMENT ON COLUMN audit_log.pepper_version IS
    'The version of the pepper that the hash key is derived from';
COMMENT ON TABLE audit_personal IS
    'The personal values of audit_log, stored apart, so that erasing them leaves the chain valid';
COMMENT ON COLUMN audit_personal.salt IS
    'The salt of the digests in audit_log; erased with the data';
COMMENT ON TABLE billing_cursors IS
    'Positions of the provider poller and the usage reports';
COMMENT ON TABLE catalogue IS
    'One row: the version of all plans and permissions, bumped with every change of any';
COMMENT ON TABLE idempotent_requests IS
    'Responses of the admin API by Idempotency-Key, written with the change and stored for a day';
COMMENT ON COLUMN idempotent_requests.caller IS
    'The caller; the keys of different callers are independent';
COMMENT ON COLUMN idempotent_requests.nonce IS
    'Secrets in the response are derived from it and the key, never stored';
COMMENT ON TABLE invoice_numbers IS
    'One row: the last invoice number. Its lock lasts until the commit, so there are no gaps';
COMMENT ON TABLE journal_offsets IS
    'Journal offsets per partition, advanced in the transaction that applies the entries';
COMMENT ON COLUMN journal_offsets.last_id IS
    'The last stream entry that is applied';
COMMENT ON TABLE journal_poison IS
    'Journal entries that PostgreSQL refused; they charged nobody and are stored only here';
COMMENT ON COLUMN journal_poison.entry_id IS
    'The entry''s id in the partition''s stream';
COMMENT ON COLUMN journal_poison.line IS
    'The raw bytes, which may not be text';
COMMENT ON COLUMN journal_poison.reason IS
    'PostgreSQL''s error message';
COMMENT ON TABLE meter_epochs IS
    'Epochs of the Redis partitions; a new one starts when Redis may have lost state';
COMMENT ON TABLE outbox IS
    'Changes to publish to Redis, written with the change; published rows are deleted';
COMMENT ON TABLE permissions IS
    'Permissions that routes require';
COMMENT ON TABLE products IS
    'Products, which group plans';
COMMENT ON TABLE provider_objects IS
    'When the stored state of a provider''s object was fetched; older states are ignored';
COMMENT ON COLUMN provider_objects.fetched_at IS
    'By the database''s clock, before the request to the provider';
COMMENT ON TABLE throttles IS
    'Recent attempts, as one instant per subject (GCRA)';
COMMENT ON COLUMN throttles.subject IS
    'Digest of what is throttled: an address, an account';
COMMENT ON COLUMN throttles.free_at IS
    'When the allowance is full again; after it the row has no effect';
COMMENT ON TABLE usage_tracking IS
    'One row per admitted request, in month partitions; the default partition takes the others';
COMMENT ON COLUMN usage_tracking.status_code IS
    'The status sent to the client; NULL if none was sent';
COMMENT ON COLUMN usage_tracking.product_count IS
    'Counted items of the price, else 1';
COMMENT ON TABLE users IS
    'Accounts, which are limited, charged and billed';
COMMENT ON COLUMN users.password_hash IS
    'Argon2id as a PHC string; NULL for a user that an administrator created';
COMMENT ON COLUMN users.version IS
    'Grows with every change of the user, its keys or subscription; decisions on older ones are stale';
COMMENT ON COLUMN users.deleted_at IS
    'Set on deletion: the row stays without personal data, because usage refers to it';
COMMENT ON TABLE webhook_events IS
    'Inbox of provider events, stored before they are processed';
COMMENT ON COLUMN webhook_events.provider_event_id IS
    'The provider''s id, or a digest of the body without one';
COMMENT ON COLUMN webhook_events.occurred_at IS
    'By the provider''s clock; events may arrive out of order';
COMMENT ON COLUMN api_keys.prefix IS
    'The first characters of the key, which identify it to people';
COMMENT ON COLUMN api_keys.hash_scheme IS
    'sha256: imported as a plain digest, replaced by an HMAC at the first use';
COMMENT ON COLUMN api_keys.is_foreign IS
    'Imported from another system, in another form and without a checksum';
COMMENT ON COLUMN api_keys.credit_cap IS
    'Credits that this key may spend in a period; NULL: no cap';
COMMENT ON COLUMN api_keys.last_used_at IS
    'Written in batches, seconds late';
COMMENT ON TABLE notices IS
    'Notifications of users and the operator''s system, written with the change that they report';
COMMENT ON COLUMN notices.once IS
    'A user has one notification of each value, such as a threshold of a period; NULL: unlimited';
COMMENT ON TABLE one_time_tokens IS
    'Tokens sent by e-mail; each is a MAC of its row under a secret outside the database';
COMMENT ON COLUMN one_time_tokens.email IS
    'The address it was sent to, and the only one it verifies';
COMMENT ON TABLE provider_customers IS
    'Customer ids of users at payment providers';
COMMENT ON TABLE sessions IS
    'A login with its refresh tokens, which are revoked together';
COMMENT ON COLUMN sessions.address IS
    'The client address of the login; logins from a known address are not throttled';
COMMENT ON COLUMN sessions.expires_at IS
    'Extended by each refresh';
COMMENT ON TABLE subscription_plans IS
    'Plans with price, credits, limits and features; a NULL limit is no limit';
COMMENT ON COLUMN subscription_plans.id IS
    'A word such as pro, set at creation and never changed';
COMMENT ON COLUMN subscription_plans.credits_rollover IS
    'Whether unused credits of a period roll over';
COMMENT ON COLUMN subscription_plans.features IS
    'Feature name -> true, or a number or word for the upstream';
COMMENT ON TABLE notice_deliveries IS
    'Deliveries of notifications by channel';
COMMENT ON COLUMN notice_deliveries.due_at IS
    'While leased, the end of the lease';
COMMENT ON TABLE plan_permissions IS
    'Permissions that plans grant';
COMMENT ON TABLE plan_provider_prices IS
    'Ids of a plan''s price and product at payment providers, with their history';
COMMENT ON TABLE plan_versions IS
    'The versions of plans; subscriptions with keeps_version are on one of them';
COMMENT ON COLUMN plan_versions.tiers IS
    'Sorted by up_to';
COMMENT ON TABLE pricing_tiers IS
    'Price tiers of plans with tiered or volume pricing';
COMMENT ON COLUMN pricing_tiers.up_to IS
    'The last unit of the tier; NULL: no upper bound';
COMMENT ON TABLE refresh_tokens IS
    'One token per session is unused; a used one detects theft';
COMMENT ON COLUMN refresh_tokens.token_hash IS
    'SHA-256 of the token, which has 256 random bits';
COMMENT ON COLUMN refresh_tokens.used_at IS
    'A second use means theft and revokes the session';
COMMENT ON TABLE subscriptions IS
    'Subscriptions of users to plans, with their current period';
COMMENT ON COLUMN subscriptions.plan_version IS
    'The version of the plan at the start, or the pinned one';
COMMENT ON COLUMN subscriptions.keeps_version IS
    'True: pinned to plan_version; false: follows the plan';
COMMENT ON COLUMN subscriptions.quantity IS
    'Seats, under per-seat pricing';
COMMENT ON COLUMN subscriptions.period_anchor IS
    'The instant from which period boundaries are counted';
COMMENT ON COLUMN subscriptions.past_due_since IS
    'Set while past_due; access ends after the grace period';
COMMENT ON COLUMN subscriptions.next_quantity IS
    'With next_plan_id, the change that applies with the next period; NULL: none';
COMMENT ON COLUMN subscriptions.provider_synced_at IS
    'When the stored provider state was fetched; older states are ignored';
COMMENT ON TABLE checkouts IS
    'Checkouts at payment providers';
COMMENT ON COLUMN checkouts.pack_id IS
    'The credit pack, whose terms at the time of the offer are in this row';
COMMENT ON COLUMN checkouts.price_id IS
    'The provider''s id of the price';
COMMENT ON TABLE credit_grants IS
    'Granted credits, each grant with its own expiry; the sum of remaining is the balance';
COMMENT ON COLUMN credit_grants.priority IS
    'Lower numbers burn down first';
COMMENT ON COLUMN credit_grants.is_scheduled IS
    'True until it starts; before, remaining is 0 and the ledger has no entry';
COMMENT ON COLUMN credit_grants.period_start IS
    'The start of the period whose credits these are; NULL: not of a period';
COMMENT ON TABLE invoices IS
    'Invoices. A trigger refuses to change or delete issued ones; a credit note corrects them';
COMMENT ON COLUMN invoices.provider_number IS
    'The provider''s number of its own invoice';
COMMENT ON COLUMN invoices.url IS
    'The provider''s page of the invoice';
COMMENT ON TABLE usage_reports IS
    'Usage that a provider bills: recorded first, then sent until the provider accepts it';
COMMENT ON COLUMN usage_reports.day IS
    'The day of the usage, in UTC';
COMMENT ON COLUMN usage_reports.used_at IS
    'The time of the last usage';
COMMENT ON COLUMN usage_reports.identifier IS
    'The provider''s idempotency identifier';
COMMENT ON COLUMN usage_reports.attempted_at IS
    'When it was first sent, or about to be sent';
COMMENT ON COLUMN usage_reports.error_message IS
    'Set: it is not sent again';
COMMENT ON TABLE user_credits IS
    'One row per user; its lock serializes the movements of the account''s credits';
COMMENT ON COLUMN user_credits.current_credits IS
    'May be negative: a charge above its hold is charged in full';
COMMENT ON COLUMN user_credits.total_credits_purchased IS
    'The sum of all grants of source purchase';
COMMENT ON COLUMN user_credits.period_credits IS
    'The period''s credits; the account is notified when 80 % are used';
COMMENT ON COLUMN user_credits.period_shortfall IS
    'Credits that a smaller plan could not take back; a larger plan grants that much less';
COMMENT ON COLUMN user_credits.noted_percent IS
    'The used percentage of the period''s credits that the account was last notified of';
COMMENT ON COLUMN user_credits.credit_seq IS
    'Counts the movements to publish to Redis (grant, adjustment, expiry, not usage)';
COMMENT ON COLUMN credit_ledger.amount IS
    'Signed change of the balance';
COMMENT ON COLUMN credit_ledger.actor IS
    'user:ID, admin:NAME, worker:NAME or provider:NAME';
COMMENT ON TABLE payment_transactions IS
    'Payments, refunds and disputes, with their outcome';
COMMENT ON COLUMN payment_transactions.credits_withdrawn IS
    'Awarded credits that refunds and disputes took back';
COMMENT ON COLUMN payment_transactions.refers_to_id IS
    'The payment that a refund or dispute belongs to';
