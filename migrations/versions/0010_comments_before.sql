-- The comments as revision 0009 has them.

COMMENT ON TABLE admin_tokens IS
    'Scoped tokens of the admin API; the root token comes from the environment and is not here';
COMMENT ON COLUMN admin_tokens.prefix IS
    'The first characters of the token, to recognise it by';
COMMENT ON COLUMN admin_tokens.token_hash IS
    'HMAC-SHA-256 of it under a pepper';
COMMENT ON TABLE analysis_history IS
    'One row per admitted request of usage type analysis, by month as usage_tracking';
COMMENT ON COLUMN analysis_history.id IS
    'Equal to request_id: one row per request';
COMMENT ON TABLE audit_head IS
    'One row: where the chain of audit_log ends. Its lock orders those who append';
COMMENT ON COLUMN audit_head.last_id IS
    'The newest row of audit_log; the next one follows without a gap';
COMMENT ON COLUMN audit_head.hash IS
    'Of that row';
COMMENT ON COLUMN audit_head.unsealed_until IS
    'The last row that is older than the chain';
COMMENT ON COLUMN audit_head.mac IS
    'HMAC-SHA-256 of this row: with no key, nobody moves the end back';
COMMENT ON COLUMN audit_log.id IS
    'Without gaps, in the order of commits';
COMMENT ON COLUMN audit_log.prev_hash IS
    'The hash of the row before';
COMMENT ON COLUMN audit_log.hash IS
    'HMAC-SHA-256 of prev_hash and the row; NULL in rows older than the chain';
COMMENT ON COLUMN audit_log.pepper_version IS
    'Of the pepper that the key of the hash is derived from';
COMMENT ON TABLE audit_personal IS
    'The personal data of audit_log, apart from it, so that it can be erased and the chain still holds';
COMMENT ON COLUMN audit_personal.salt IS
    'Of the digests in audit_log; gone with the data';
COMMENT ON TABLE billing_cursors IS
    'How far the walks through providers and usage have got';
COMMENT ON TABLE catalogue IS
    'One row: the version of all plans and permissions together, bumped in the transaction that changes any';
COMMENT ON TABLE idempotent_requests IS
    'Answers of the admin API by Idempotency-Key, written with the change itself and kept for a day';
COMMENT ON COLUMN idempotent_requests.caller IS
    'Whose key it is: keys of two callers never meet';
COMMENT ON COLUMN idempotent_requests.nonce IS
    'Secrets of the answer are derived from it and the key, not kept';
COMMENT ON TABLE invoice_numbers IS
    'One row: the last number given. Its lock is held to the end of the transaction, so there are no gaps';
COMMENT ON TABLE journal_offsets IS
    'How far each partition''s journal is applied; moved in the transaction that applies it';
COMMENT ON COLUMN journal_offsets.last_id IS
    'The last stream entry whose rows are here';
COMMENT ON TABLE journal_poison IS
    'Journal entries that PostgreSQL refused: they charged nobody, and stand nowhere else';
COMMENT ON COLUMN journal_poison.entry_id IS
    'Its id in the stream of the partition';
COMMENT ON COLUMN journal_poison.line IS
    'As it came, which may not be text';
COMMENT ON COLUMN journal_poison.reason IS
    'In the words of PostgreSQL';
COMMENT ON TABLE meter_epochs IS
    'How often each partition of Redis has begun anew: after a restart, a failover, a flush, an older copy';
COMMENT ON TABLE outbox IS
    'What Redis has still to be told, written with the change itself; a row is deleted once it was told';
COMMENT ON TABLE permissions IS
    'Named rights that routes ask for';
COMMENT ON TABLE products IS
    'What plans are plans of';
COMMENT ON TABLE provider_objects IS
    'When what we hold of a provider''s object was fetched: what was fetched before is not taken any more';
COMMENT ON COLUMN provider_objects.fetched_at IS
    'By the database''s clock, before the provider was asked';
COMMENT ON TABLE throttles IS
    'Attempts of late, as one instant each (GCRA)';
COMMENT ON COLUMN throttles.subject IS
    'Digest of what is slowed down: an address, an account';
COMMENT ON COLUMN throttles.free_at IS
    'When all that was taken is given back; past it, the row says nothing';
COMMENT ON TABLE usage_tracking IS
    'One row per admitted request, by month; rows of no month''s partition land in the default one';
COMMENT ON COLUMN usage_tracking.status_code IS
    'What the client was sent; NULL where it was sent nothing';
COMMENT ON COLUMN usage_tracking.product_count IS
    'Items that the price counted, else 1';
COMMENT ON TABLE users IS
    'An account: what is limited, charged and billed';
COMMENT ON COLUMN users.password_hash IS
    'Argon2id, PHC string; NULL for a user made by an administrator';
COMMENT ON COLUMN users.version IS
    'Grows with any change of the user, its keys or subscription; decisions on older ones are stale';
COMMENT ON COLUMN users.deleted_at IS
    'Set on deletion: the row stays, emptied of personal data, because usage points to it';
COMMENT ON TABLE webhook_events IS
    'An inbox: events are stored before they are acted on';
COMMENT ON COLUMN webhook_events.provider_event_id IS
    'The provider''s id, or a digest of the body where it has none';
COMMENT ON COLUMN webhook_events.occurred_at IS
    'By the provider''s clock; events arrive out of order';
COMMENT ON COLUMN api_keys.prefix IS
    'The first characters of the key, to recognise it by';
COMMENT ON COLUMN api_keys.hash_scheme IS
    'sha256: imported so, and made an HMAC when the key is first used';
COMMENT ON COLUMN api_keys.is_foreign IS
    'Imported from another system: without our form and checksum';
COMMENT ON COLUMN api_keys.credit_cap IS
    'Credits this key may spend in a period; NULL: all of the account''s';
COMMENT ON COLUMN api_keys.last_used_at IS
    'Written in batches, some seconds late';
COMMENT ON TABLE notices IS
    'What happened that someone should be told, written with the change itself';
COMMENT ON COLUMN notices.once IS
    'What is noted once for each user, such as a threshold of a period; NULL: each time';
COMMENT ON TABLE one_time_tokens IS
    'Sent by mail. The token is a MAC of the row under a secret that is not here';
COMMENT ON COLUMN one_time_tokens.email IS
    'Where it was sent: it proves that address and no other';
COMMENT ON TABLE provider_customers IS
    'A user''s name at a payment provider';
COMMENT ON TABLE sessions IS
    'A login and all the tokens that came of it: a family, revoked as one';
COMMENT ON COLUMN sessions.address IS
    'Where the login came from; whoever knew the password there is not slowed down';
COMMENT ON COLUMN sessions.expires_at IS
    'Moved on by each refresh';
COMMENT ON TABLE subscription_plans IS
    'A plan: price, credits, limits and features. NULL limits are no limits';
COMMENT ON COLUMN subscription_plans.id IS
    'A word such as pro, given at creation and never changed';
COMMENT ON COLUMN subscription_plans.credits_rollover IS
    'Whether what is left of a period''s credits outlives the period';
COMMENT ON COLUMN subscription_plans.features IS
    'Feature name -> true, or a number or word that means something to the upstream';
COMMENT ON TABLE notice_deliveries IS
    'How the telling of a notice goes by each channel';
COMMENT ON COLUMN notice_deliveries.due_at IS
    'While one is under way, when it is lost';
COMMENT ON TABLE plan_permissions IS
    'Which plan grants which permission';
COMMENT ON TABLE plan_provider_prices IS
    'What payment providers call the price and product of a plan, now and formerly';
COMMENT ON TABLE plan_versions IS
    'What each version of a plan said: never changed, held to by the subscriptions that keep one';
COMMENT ON COLUMN plan_versions.tiers IS
    'Rising by up_to';
COMMENT ON TABLE pricing_tiers IS
    'Tiers of plans priced tiered or volume';
COMMENT ON COLUMN pricing_tiers.up_to IS
    'Last unit of the tier; NULL: the rest';
COMMENT ON TABLE refresh_tokens IS
    'One of each session is unused; the others tell a thief from an owner';
COMMENT ON COLUMN refresh_tokens.token_hash IS
    'SHA-256 of the token, which holds 256 random bits';
COMMENT ON COLUMN refresh_tokens.used_at IS
    'A token that comes a second time was stolen: its session is revoked';
COMMENT ON TABLE subscriptions IS
    'Who is on which plan, until when';
COMMENT ON COLUMN subscriptions.plan_version IS
    'The version of the plan that was agreed to';
COMMENT ON COLUMN subscriptions.keeps_version IS
    'True: plan_version holds, whatever became of the plan; false: the plan as it is';
COMMENT ON COLUMN subscriptions.quantity IS
    'Seats, where the plan is per seat';
COMMENT ON COLUMN subscriptions.period_anchor IS
    'Whose day and time of the month the periods keep';
COMMENT ON COLUMN subscriptions.past_due_since IS
    'Set while past_due; access ends a grace after it';
COMMENT ON COLUMN subscriptions.next_quantity IS
    'With next_plan_id what the next period begins with; NULL: as it is';
COMMENT ON COLUMN subscriptions.provider_synced_at IS
    'When the provider''s state that is here was fetched; older news is ignored';
COMMENT ON TABLE checkouts IS
    'What a user was sent to a provider to pay for';
COMMENT ON COLUMN checkouts.pack_id IS
    'Of a pack of credits, whose terms are kept as they were when it was offered';
COMMENT ON COLUMN checkouts.price_id IS
    'The provider''s name for what is bought';
COMMENT ON TABLE credit_grants IS
    'Credits given, each with its own end; what is left of them is the balance';
COMMENT ON COLUMN credit_grants.priority IS
    'Lower burns first';
COMMENT ON COLUMN credit_grants.is_scheduled IS
    'Its time has not come: nothing remains of it, and the ledger does not know it';
COMMENT ON COLUMN credit_grants.period_start IS
    'Of the subscription''s period whose credits these are; NULL: not a period''s';
COMMENT ON TABLE invoices IS
    'What was asked for. A trigger refuses to change or delete what has been issued; a credit note corrects it';
COMMENT ON COLUMN invoices.provider_number IS
    'The number the provider gave its own invoice, which has none of ours';
COMMENT ON COLUMN invoices.url IS
    'The provider''s page of it';
COMMENT ON TABLE usage_reports IS
    'Usage that a provider bills by: written down first, then sent until it has arrived';
COMMENT ON COLUMN usage_reports.day IS
    'Of UTC, that the usage is of';
COMMENT ON COLUMN usage_reports.used_at IS
    'The last of it';
COMMENT ON COLUMN usage_reports.identifier IS
    'What the provider tells repetitions by';
COMMENT ON COLUMN usage_reports.attempted_at IS
    'When it was first sent, or was about to be';
COMMENT ON COLUMN usage_reports.error_message IS
    'Set: it will not be sent again';
COMMENT ON TABLE user_credits IS
    'One row a user; its row lock orders every movement of the account''s credits';
COMMENT ON COLUMN user_credits.current_credits IS
    'May be negative: a charge above the hold is taken in full';
COMMENT ON COLUMN user_credits.total_credits_purchased IS
    'All grants of source purchase, ever';
COMMENT ON COLUMN user_credits.period_credits IS
    'What the subscription gave for the period; 80 % of it used is news';
COMMENT ON COLUMN user_credits.period_shortfall IS
    'What a smaller plan should have taken back and was spent; a larger one gives less by it';
COMMENT ON COLUMN user_credits.noted_percent IS
    'Of the period''s credits, how much used the account was last told of';
COMMENT ON COLUMN user_credits.credit_seq IS
    'Counts the changes that PostgreSQL must push to the hot copy (grant, adjustment, expiry), never usage';
COMMENT ON COLUMN credit_ledger.amount IS
    'Signed: what the movement did to the balance';
COMMENT ON COLUMN credit_ledger.actor IS
    'Who did it: user:ID, admin:NAME, worker:NAME, provider:NAME';
COMMENT ON TABLE payment_transactions IS
    'Money that moved, or tried to';
COMMENT ON COLUMN payment_transactions.credits_withdrawn IS
    'Of those awarded, taken back for refunds and disputes';
COMMENT ON COLUMN payment_transactions.refers_to_id IS
    'The payment that a refund or dispute is of';
