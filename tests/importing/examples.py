"""Three example databases of other systems, one for each preset, and what they must become here.

python -m tests.importing.examples plan-permissions sqlite:///example.db [USERS]
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.ext.asyncio import create_async_engine

USERS, CALLS_EACH = 24, 3
# Periods that began ten days ago run for twenty days more, whenever the tests run.
NOW = datetime.now(UTC).replace(microsecond=0, tzinfo=None)
BEGAN = NOW - timedelta(days=10)
ENDS = BEGAN + timedelta(days=30)
SIGNED_UP = datetime(2025, 1, 31, 12, 0, 0)  # noqa: DTZ001 - sources have no offsets
ARGON2ID = "$argon2id$v=19$m=19456,t=2,p=1$54Ln18JlZ4HMouCD7c2teA$7Vxt1NTTP9WvJpmDEGH9QEmOHIqVqVh7XiqBy4kcfYc"
BCRYPT = "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW"

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Example:
    """`balances` are by the e-mail address, `keys` by the key itself; `counts` by section."""

    tables: Mapping[str, Rows]
    balances: Mapping[str, int]
    keys: Mapping[str, str]
    counts: Mapping[str, int]
    key_columns: Mapping[str, str] = field(default_factory=dict)


def email(number: int) -> str:
    return f"customer{number}@example.com"


def secret(number: int) -> str:
    return f"acme_{sha256(str(number).encode()).hexdigest()[:32]}"


def plan_permissions(users: int = USERS) -> Example:
    """Integer ids. Keys in the clear, passwords of two kinds, every fourth account in debt or without a plan."""
    numbers = range(1, users + 1)
    with_plan = [n for n in numbers if n % 4]
    balances = {n: -7 if n % 8 == 4 else 13 * n for n in numbers}
    return Example(
        {
            "subscription_plans": [
                {"id": 1, "name": "Starter", "price": Decimal("9.90"), "credits": 100, "permissions": "read, analyze"},
                {
                    "id": 2,
                    "name": "Team",
                    "price": Decimal("49.00"),
                    "credits": 1000,
                    "permissions": "read,analyze,export",
                },
            ],
            "users": [
                {
                    "id": n,
                    "email": email(n),
                    "name": f"Customer {n}",
                    "password_hash": ARGON2ID if n % 2 else BCRYPT,
                    "is_active": n % 6 != 0,
                    "email_verified": True,
                    "created_at": SIGNED_UP + timedelta(hours=n),
                }
                for n in numbers
            ],
            "subscriptions": [
                {
                    "id": 1000 + n,
                    "user_id": n,
                    "plan_id": 1 + n % 2,
                    "status": "active",
                    "current_period_start": BEGAN,
                    "current_period_end": ENDS,
                }
                for n in with_plan
            ],
            "user_credits": [{"id": n, "user_id": n, "balance": balances[n]} for n in numbers],
            **_plan_permissions_history(numbers, with_plan),
        },
        balances={email(n): balances[n] for n in numbers},
        keys={secret(n): email(n) for n in numbers},
        counts={
            "plans": 2,
            "users": users,
            "subscriptions": len(with_plan),
            "credits": users,
            "keys": users,
            "payments": len(with_plan),
            "usage": users * CALLS_EACH,
        },
    )


def _plan_permissions_history(numbers: range, with_plan: list[int]) -> dict[str, Rows]:
    """Keys in the clear, payments and calls."""
    return {
        "api_keys": [
            {"id": n, "user_id": n, "key": secret(n), "name": "production", "is_active": True} for n in numbers
        ],
        "payments": [
            {
                "id": n,
                "user_id": n,
                "plan_id": 1 + n % 2,
                "amount": Decimal("9.90"),
                "currency": "usd",
                "status": "paid",
                "created_at": BEGAN,
            }
            for n in with_plan
        ],
        "usage": [
            {
                "id": n * 1000 + call,
                "user_id": n,
                "api_key_id": n,
                "endpoint": "analyze",
                "status_code": 500 if call == 2 else 200,
                "credits_used": call,
                "created_at": BEGAN + timedelta(minutes=n, seconds=call),
            }
            for n in numbers
            for call in range(CALLS_EACH)
        ],
    }


def firebase(users: int = USERS) -> Example:
    """String ids, plans by their words, digests of keys, purchased credits beside those of the period."""
    numbers = range(1, users + 1)
    uids = {n: f"fb{sha256(bytes([n % 256, n // 256])).hexdigest()[:26]}" for n in numbers}
    balances = {n: 5 * n for n in numbers}
    return Example(
        {
            "subscription_plans": [
                {
                    "id": "hobby",
                    "name": "Hobby",
                    "price": Decimal("5.00"),
                    "monthly_credits": 50,
                    "features": '["api"]',
                },
                {"id": "studio", "name": "Studio", "price": Decimal("25.00"), "monthly_credits": 500, "features": "{}"},
            ],
            "users": [
                {"uid": uids[n], "email": email(n), "display_name": f"Ünïcode {n}", "email_verified": n % 2 == 0}
                for n in numbers
            ],
            "user_subscriptions": [
                {
                    "id": f"sub-{n}",
                    "user_id": uids[n],
                    "plan_id": "studio" if n % 3 else "hobby",
                    "status": "cancelled" if n % 5 == 0 else "active",
                    "provider": "stripe",
                    "provider_subscription_id": f"sub_fb{n}",
                    "start_date": BEGAN,
                    "end_date": ENDS,
                }
                for n in numbers
            ],
            "user_credits": [
                {"user_id": uids[n], "current_credits": balances[n], "purchased_credits": n} for n in numbers
            ],
            **_firebase_history(uids),
        },
        balances={email(n): balances[n] for n in numbers},
        keys={secret(n): email(n) for n in numbers},
        counts={
            "plans": 2,
            **dict.fromkeys(("users", "subscriptions", "credits", "keys", "payments"), users),
            "usage": users * CALLS_EACH,
        },
        key_columns={"users": "uid", "user_credits": "user_id"},
    )


def _firebase_history(uids: Mapping[int, str]) -> dict[str, Rows]:
    """Digests of keys, payments and calls."""
    return {
        "api_keys": [
            {
                "id": f"key-{n}",
                "user_id": uids[n],
                "key_hash": sha256(secret(n).encode()).hexdigest(),
                "key_prefix": "acme_",
                "status": "active",
            }
            for n in uids
        ],
        "payment_history": [
            {
                "id": f"pay-{n}",
                "user_id": uids[n],
                "plan_id": "studio",
                "provider": "stripe",
                "payment_id": f"in_fb{n}",
                "amount": Decimal("25.00"),
                "currency": "EUR",
                "status": "succeeded",
                "created_at": BEGAN,
            }
            for n in uids
        ],
        "usage_logs": [
            {
                "id": f"log-{n}-{call}",
                "user_id": uids[n],
                "action": "generate",
                "credits_used": 2,
                "status": "success",
                "metadata": '{"client": "web"}',
                "timestamp": BEGAN + timedelta(minutes=n, seconds=call),
            }
            for n in uids
            for call in range(CALLS_EACH)
        ],
    }


def customers(users: int = USERS) -> Example:
    """Products, plans in cents, and the ids of Stripe. Without balances a period begins with its plan's credits."""
    numbers = range(1, users + 1)
    subscribed = [n for n in numbers if n % 3]
    return Example(
        {
            "products": [{"id": "prod_a", "name": "Analysis"}],
            "plans": [
                {
                    "id": "plan_m",
                    "nickname": "Monthly",
                    "product_id": "prod_a",
                    "amount": 1999,
                    "currency": "eur",
                    "interval": "month",
                    "credits": 300,
                    "stripe_price_id": "price_imported_m",
                }
            ],
            "customers": [
                {"id": n, "email": email(n), "company": f"Company {n}", "stripe_customer_id": f"cus_ex{n}"}
                for n in numbers
            ],
            "subscriptions": [
                {
                    "id": f"s{n}",
                    "customer_id": n,
                    "plan_id": "plan_m",
                    "status": "active" if n % 2 else "unpaid",
                    "stripe_subscription_id": f"sub_ex{n}",
                    "current_period_start": BEGAN,
                    "current_period_end": ENDS,
                }
                for n in subscribed
            ],
            **_customers_history(numbers, subscribed),
        },
        balances={email(n): 300 if n in subscribed and n % 2 else 0 for n in numbers},
        keys={secret(n): email(n) for n in numbers},
        counts={
            "products": 1,
            "plans": 1,
            "users": users,
            "subscriptions": len(subscribed),
            "keys": users,
            "payments": len(subscribed),
        },
    )


def _customers_history(numbers: range, subscribed: list[int]) -> dict[str, Rows]:
    """Digests of keys, and charges in cents."""
    return {
        "api_keys": [
            {
                "id": n,
                "customer_id": n,
                "key_hash": sha256(secret(n).encode()).hexdigest(),
                "prefix": "acme_",
                "last4": secret(n)[-4:],
                "revoked_at": None,
            }
            for n in numbers
        ],
        "charges": [
            {
                "id": n,
                "customer_id": n,
                "subscription_id": f"s{n}",
                "stripe_charge_id": f"ch_ex{n}",
                "amount": 1999,
                "amount_refunded": 999 if n % 7 == 0 else 0,
                "currency": "eur",
                "status": "succeeded",
                "created_at": BEGAN,
            }
            for n in subscribed
        ],
    }


EXAMPLES: Mapping[str, Callable[..., Example]] = {
    "plan-permissions": plan_permissions,
    "firebase": firebase,
    "customers": customers,
}


async def write(url: str, tables: Mapping[str, Rows], *, keys: Mapping[str, str] | None = None) -> None:
    """Creates the tables, typed by their first row, with `id` or the named column as the key."""

    def fill(connection: Connection) -> None:
        metadata = sa.MetaData()
        for name, rows in tables.items():
            table = sa.Table(name, metadata, *_columns(rows, key=(keys or {}).get(name, "id")))
            table.create(connection)
            for start in range(0, len(rows), 1000):
                connection.execute(table.insert(), rows[start : start + 1000])

    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        engine = create_async_engine(parsed.set(drivername="postgresql+asyncpg"))
        async with engine.begin() as connection:
            await connection.run_sync(fill)
        await engine.dispose()
        return
    sync_engine = sa.create_engine(
        parsed.set(drivername="mysql+pymysql") if parsed.get_backend_name() in ("mysql", "mariadb") else parsed
    )
    with sync_engine.begin() as opened:
        fill(opened)
    sync_engine.dispose()


_TYPES: Mapping[type, Any] = {
    bool: sa.Boolean(),
    int: sa.BigInteger(),
    str: sa.String(255),
    Decimal: sa.Numeric(12, 2),
    datetime: sa.DateTime(),
    type(None): sa.String(255),
}


def _columns(rows: Rows, *, key: str) -> list[sa.Column[Any]]:
    return [
        sa.Column(name, _TYPES[type(value)], primary_key=name == key, autoincrement=False)
        for name, value in rows[0].items()
    ]


if __name__ == "__main__":
    made = EXAMPLES[sys.argv[1]](*map(int, sys.argv[3:]))
    asyncio.run(write(sys.argv[2], made.tables, keys=made.key_columns))
