"""Accounts with a plan and credits, straight into PostgreSQL: more than the admin API makes in a reasonable time."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from uuid import UUID, uuid4

import asyncpg

from policies.access import keys as key_policy

CREDITS = 10**12


async def add_accounts(
    connection: asyncpg.Connection, users: Sequence[UUID], *, pepper: bytes, calling: int
) -> list[str]:
    """Accounts on the plan `ok`, which one has already; gives a key for each of the first `calling`."""
    made = [key_policy.compose("gw", secrets.token_bytes(32)) for _ in range(min(calling, len(users)))]
    await connection.copy_records_to_table(
        "users", columns=("id", "email"), records=((user, f"{user}@example.com") for user in users)
    )
    await connection.copy_records_to_table(
        "user_credits", columns=("user_id", "current_credits"), records=((user, CREDITS) for user in users)
    )
    await connection.execute(
        """INSERT INTO subscriptions
                  (id, user_id, plan_id, plan_version, status, period_anchor, current_period_start, current_period_end)
           SELECT gen_random_uuid(), u.id, s.plan_id, s.plan_version, 'active', now(), now(), now() + interval '1 month'
             FROM users u, (SELECT plan_id, plan_version FROM subscriptions WHERE plan_id = 'ok' LIMIT 1) s
            WHERE NOT EXISTS (SELECT FROM subscriptions o WHERE o.user_id = u.id)"""
    )
    await connection.copy_records_to_table(
        "api_keys",
        columns=("id", "user_id", "prefix", "last4", "key_hash"),
        records=(
            (uuid4(), user, key.prefix, key.last4, key_policy.digest(key.secret.encode(), pepper))
            for user, key in zip(users, made, strict=False)
        ),
    )
    return [key.secret for key in made]
