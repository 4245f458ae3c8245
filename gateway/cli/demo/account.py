"""The account of the demo: its key and its password, made once and kept in `data_dir`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes, token_urlsafe
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.account.login.password_hashing import PasswordHasher
from gateway.cli.demo.customers import DEMO_EMAIL
from gateway.cli.demo.month import seed_month
from gateway.cli.installation import connect
from gateway.clock import now
from gateway.config import Config
from gateway.ledger.accounts import api_keys, users
from gateway.ledger.accounts.api_keys import Fingerprint
from gateway.ledger.catalogue import plans
from gateway.ledger.db.errors import NotFound
from gateway.ledger.subscriptions import lifecycle
from gateway.runtime.payments import build_issuer
from gateway.runtime.stores import StoreUrls
from policies.access.keys import ENTROPY_BYTES, compose, recognised

PLAN = "pro"


@dataclass(frozen=True, slots=True)
class DemoAccount:
    """Who may call and sign in. A restart gives the same."""

    user_id: UUID
    key: str
    password: str


async def ensure_account(config: Config, stores: StoreUrls, *, with_month: bool) -> DemoAccount:
    """Creates what is missing of the account and, `with_month`, of the month."""
    key_file, password_file = config.data_dir / "demo_key", config.data_dir / "demo_password"
    is_new_key, is_new_password = not key_file.exists(), not password_file.exists()
    key = compose(config.keys.prefix, token_bytes(ENTROPY_BYTES)).secret if is_new_key else key_file.read_text()
    password = token_urlsafe(12) if is_new_password else password_file.read_text()
    password_hash = await _hash(password) if is_new_password or with_month else None
    fingerprint = api_keys.fingerprint(recognised(config.keys.prefix, key), config.secrets.peppers)
    async with connect(config, stores) as database, database.transaction() as connection:
        user_id = None
        if with_month and password_hash is not None:
            user_id = await seed_month(
                connection,
                routes={route.name: route for route in config.routes},
                issuer=build_issuer(config),
                demo_key=fingerprint,
                password_hash=password_hash,
                now=now(),
            )
        if user_id is None:
            new_key, new_hash = fingerprint if is_new_key else None, password_hash if is_new_password else None
            user_id = await _complete(connection, new_key=new_key, new_hash=new_hash)
    _write_secret(key_file, key)
    _write_secret(password_file, password)
    return DemoAccount(user_id, key, password)


async def _complete(connection: AsyncConnection, *, new_key: Fingerprint | None, new_hash: str | None) -> UUID:
    """The demo user without a month; what is new is added."""
    user = await users.get_by_email(connection, DEMO_EMAIL)
    if user is None:
        user = await users.create(connection, DEMO_EMAIL, name="Demo")
        plan = await plans.get(connection, PLAN)
        if plan is None:
            raise NotFound("plan", PLAN)
        await lifecycle.start(connection, user.id, plan_id=plan.id, now=now())
    if new_key is not None:
        await api_keys.create(connection, user.id, fingerprint=new_key, name="demo")
    if new_hash is not None:
        await users.patch(connection, user.id, password_hash=new_hash, email_verified_at=now())
    return user.id


async def _hash(password: str) -> str:
    hasher = PasswordHasher()
    try:
        return await hasher.hash(password, address="127.0.0.1")
    finally:
        hasher.close()


def _write_secret(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(secret)
