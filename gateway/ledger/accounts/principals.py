"""Reads what an admission is decided on. Each function is one statement, hence one snapshot.

Two statements could pair a key from before a change with a version from after it, and the gateway would serve that
stale pair until the next change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue.plan_versions import IN_FORCE
from gateway.ledger.db.tables.subscriptions import CURRENT, HAS_ENDED, WAS_BEGUN
from gateway.ledger.usage.key_budgets import budget_keys
from policies.model import (
    Account,
    AccountStatus,
    FeatureValue,
    Key,
    KeyStatus,
    PastDue,
    Plan,
    Principal,
    Subscription,
    SubscriptionStatus,
)

# The current subscription, else the newest that was ever paid for, with its plan in the version that it is on. Once it
# has ended, the plan that its plan falls back to stands for it.
_ACCOUNT = """
           u.id AS user_id, u.status AS user_status, u.version AS account_version,
           (SELECT version FROM catalogue) AS catalogue_version,
           s.id AS subscription_id, s.status AS subscription_status, s.current_period_start, s.current_period_end,
           s.cancel_at_period_end, s.past_due_since, coalesce(s.is_fallback, false) AS is_fallback,
           p.id AS plan_id, p.name AS plan_name, p.version AS plan_version, p.features,
           p.requests_per_minute, p.requests_per_hour, p.max_api_calls_per_day, p.max_concurrent_requests,
           p.price > 0 OR p.pricing_model IN ('tiered', 'volume', 'usage') AS plan_is_paid,
           p.max_products_per_batch, p.max_file_size_bytes, p.max_credits_per_call, p.past_due,
           coalesce((SELECT current_credits FROM user_credits WHERE user_id = u.id AND s.is_current IS NOT true), 0)
               AS waiting_credits,
           CASE WHEN s.status = 'active' AND (s.provider = 'manual' OR p.pricing_model = 'usage'
                     OR p.overage_stripe_price_id IS NOT NULL) THEN coalesce(p.overage_credits, 0) ELSE 0
            END AS overage_credits,
           coalesce(v.permissions, ARRAY(
                 SELECT r.name FROM plan_permissions g JOIN permissions r ON r.id = g.permission_id
                  WHERE g.plan_id = p.id)) AS plan_permissions
"""
_CONTRACT = f"""
      LEFT JOIN LATERAL (
           SELECT c.id, c.status, c.provider, c.current_period_start, c.current_period_end, c.cancel_at_period_end,
                  c.past_due_since, c.plan_version, c.{CURRENT} AS is_current,
                  h.fallback_plan IS NOT NULL AS is_fallback,
                  coalesce(h.fallback_plan, c.plan_id) AS plan_id,
                  c.keeps_version AND h.fallback_plan IS NULL AS keeps_version
             FROM subscriptions c
             LEFT JOIN subscription_plans h
                    ON h.id = c.plan_id AND {WAS_BEGUN}
                   AND (c.{HAS_ENDED} OR c.status = 'paused' AND c.past_due_since IS NOT NULL)
            WHERE c.user_id = u.id
            ORDER BY c.{CURRENT} DESC, {WAS_BEGUN} DESC, c.created_at DESC, c.id DESC
            LIMIT 1) s ON true
      {IN_FORCE}
"""  # noqa: S608 - made of constants
_KEY = """
           k.id AS key_id, k.status AS key_status, k.prefix, k.last4, k.permissions AS key_permissions, k.allowed_ips,
           k.expires_at, k.credit_cap, budget.id AS budget_id, budget.keys AS budget_keys
"""
# Only a key with a cap has a budget. It is named by the first key of its chain of rotations, with the chain's length.
_BUDGET = f"""
      LEFT JOIN LATERAL (
           SELECT id, (SELECT count(*) FROM ({budget_keys("first.id")}) keys) AS keys
             FROM (WITH RECURSIVE older AS (
                        SELECT k.id, k.rotated_from
                         UNION
                        SELECT o.id, o.rotated_from FROM older n JOIN api_keys o ON o.id = n.rotated_from)
                   SELECT id FROM older WHERE rotated_from IS NULL) first
            WHERE k.credit_cap IS NOT NULL) budget ON true
"""  # noqa: S608 - made of constants
_FIND = text(f"""
    SELECT {_KEY}, {_ACCOUNT}
      FROM api_keys k
      JOIN users u ON u.id = k.user_id
           {_BUDGET}
           {_CONTRACT}
     WHERE k.key_hash = :key_hash
""")  # noqa: S608 - made of constants

_FIND_KEY = text(f"""
    SELECT {_KEY} FROM api_keys k {_BUDGET} WHERE k.id = :key_id AND k.user_id = :user_id
""")  # noqa: S608 - made of constants

_FIND_ACCOUNT = text(f"""
    SELECT {_ACCOUNT} FROM users u {_CONTRACT} WHERE u.id = :user_id AND u.deleted_at IS NULL
""")  # noqa: S608 - made of constants

_BALANCE = text("""
    SELECT u.version AS account_version, c.credit_seq, c.current_credits
      FROM users u JOIN user_credits c ON c.user_id = u.id
     WHERE u.id = :user_id
""")

_CATALOGUE = text("""
    SELECT c.version, p.name, p.features
      FROM catalogue c LEFT JOIN subscription_plans p ON p.is_active
     ORDER BY p.sort_order, p.price, p.name
""")


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """The state that an account is loaded into Redis with."""

    account_version: int
    credit_seq: int
    current_credits: int


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The features of active plans by plan name, cheapest first."""

    version: int
    features: Mapping[str, Mapping[str, FeatureValue]]


async def find_principal(connection: AsyncConnection, key_hash: bytes) -> Principal | None:
    """The key of this digest with its account, in any state; None for an unknown key."""
    row = (await connection.execute(_FIND, {"key_hash": key_hash})).mappings().one_or_none()
    return None if row is None else _principal(row)


async def find_account(connection: AsyncConnection, user_id: UUID) -> Account | None:
    """The account as its keys are admitted on; None for an unknown or deleted one."""
    row = (await connection.execute(_FIND_ACCOUNT, {"user_id": user_id})).mappings().one_or_none()
    return None if row is None else _account(row)


async def find_key(connection: AsyncConnection, user_id: UUID, key_id: UUID) -> Key | None:
    """A key of the user; None for an unknown key or another user's."""
    row = (await connection.execute(_FIND_KEY, {"key_id": key_id, "user_id": user_id})).mappings().one_or_none()
    return None if row is None else _key(row)


async def get_balance(connection: AsyncConnection, user_id: UUID) -> AccountBalance | None:
    """The balance in PostgreSQL; the journal may hold charges that are not in it yet."""
    row = (await connection.execute(_BALANCE, {"user_id": user_id})).one_or_none()
    return None if row is None else AccountBalance(row.account_version, row.credit_seq, row.current_credits)


async def get_catalogue(connection: AsyncConnection) -> Catalogue:
    rows = (await connection.execute(_CATALOGUE)).all()
    return Catalogue(rows[0].version, {row.name: row.features for row in rows if row.name is not None})


def _principal(row: RowMapping) -> Principal:
    return Principal(
        key=_key(row),
        account=_account(row),
        account_version=row["account_version"],
        catalogue_version=row["catalogue_version"],
    )


def _account(row: RowMapping) -> Account:
    return Account(
        id=row["user_id"],
        status=AccountStatus(row["user_status"]),
        subscription=_subscription(row),
        waiting_credits=max(0, row["waiting_credits"]),
    )


def _key(row: RowMapping) -> Key:
    permissions = row["key_permissions"]
    return Key(
        id=row["key_id"],
        status=KeyStatus(row["key_status"]),
        prefix=row["prefix"],
        last4=row["last4"],
        permissions=None if permissions is None else frozenset(permissions),
        allowed_ips=tuple(row["allowed_ips"]),
        expires_at=row["expires_at"],
        credit_cap=row["credit_cap"],
        budget_id=row["budget_id"],
        budget_keys=row["budget_keys"] or 1,
    )


def _subscription(row: RowMapping) -> Subscription | None:
    if row["subscription_id"] is None:
        return None
    return Subscription(
        id=row["subscription_id"],
        status=SubscriptionStatus(row["subscription_status"]),
        plan=_plan(row),
        current_period_start=row["current_period_start"],
        current_period_end=row["current_period_end"],
        cancel_at_period_end=row["cancel_at_period_end"],
        past_due_since=row["past_due_since"],
        is_fallback=row["is_fallback"],
    )


def _plan(row: RowMapping) -> Plan:
    return Plan(
        id=row["plan_id"],
        name=row["plan_name"],
        version=row["plan_version"],
        features=row["features"],
        permissions=frozenset(row["plan_permissions"]),
        requests_per_minute=row["requests_per_minute"],
        requests_per_hour=row["requests_per_hour"],
        max_api_calls_per_day=row["max_api_calls_per_day"],
        max_concurrent_requests=row["max_concurrent_requests"],
        max_products_per_batch=row["max_products_per_batch"],
        max_file_size_bytes=row["max_file_size_bytes"],
        max_credits_per_call=row["max_credits_per_call"],
        is_paid=row["plan_is_paid"],
        past_due=PastDue(row["past_due"]),
        overage_credits=row["overage_credits"],
    )
