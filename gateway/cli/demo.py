"""`gateway demo`: everything on one machine, with an upstream that works and an account that may call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from secrets import token_bytes

import typer

from gateway import logs
from gateway.cli.installation import prepare
from gateway.clock import now
from gateway.config import Config
from gateway.embedded.locks import serve_lock
from gateway.ledger.accounts import api_keys, users
from gateway.ledger.audit import audit_chain
from gateway.ledger.catalogue import plans
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.session import Database
from gateway.ledger.subscriptions import lifecycle
from gateway.runtime.serving import EVERYTHING, Role, serving, until_told_to_stop
from gateway.runtime.sockets import bind, url_of
from gateway.runtime.stores import Reached, opened_stores
from policies.access.keys import ENTROPY_BYTES, compose

EMAIL = "demo@example.com"
PLAN = "pro"

_TRY = """
The gateway is serving. Try:

  curl {public_url}/v1/analyze -H 'X-API-Key: {api_key}' -d 'the quick brown fox and the lazy dog'

  curl {public_url}/v1/generate -H 'X-API-Key: {api_key}' -d '{{"products": ["lamp", "chair"]}}'

  curl -N {public_url}/v1/chat/completions -H 'X-API-Key: {api_key}' -d '{{"model": "demo", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'

What they used: {admin_url}/admin/v1/usage with 'Authorization: Bearer {admin_token}'; all of the admin API: {admin_url}/docs
"""  # noqa: E501 - a line each, to be copied whole


async def run_demo(read: Callable[[], Config], *, as_json: bool) -> None:
    """Serves until told to stop; with `as_json` one line says where everything is."""
    config = read()
    logs.configure(role="supervisor")
    async with AsyncExitStack() as stack:
        stack.enter_context(serve_lock(config.data_dir))
        reached = await stack.enter_async_context(opened_stores(config, must_own=True))
        await prepare(config, reached)
        user_id, key = await _account(config, reached)
        with bind("demo upstream", "127.0.0.1", 0)[0] as listening:
            upstream_url = url_of(listening)
            settings = {f"GATEWAY_UPSTREAMS__{each.name.upper()}__TARGETS": upstream_url for each in config.upstreams}
            stack.enter_context(listening)
            serve = serving(config, EVERYTHING, reached=reached, read_again=read, settings=settings, upstream=listening)
            urls = await stack.enter_async_context(serve)
        found = {
            "public_url": urls[Role.PROXY],
            "admin_url": urls[Role.ADMIN],
            "upstream_url": upstream_url,
            "api_key": key,
            "admin_token": config.secrets.admin_token,
            "user_id": user_id,
            "database_url": reached.database_url,
            "redis_url": reached.redis_url,
        }
        typer.echo(json.dumps(found) if as_json else _TRY.format(**found))
        await until_told_to_stop()


async def _account(config: Config, reached: Reached) -> tuple[str, str]:
    """The demo user's id and key. The key is kept beside the generated secrets, so that restarts can print it."""
    remembered = config.data_dir / "demo_key"
    database = Database(reached.database_url, pool_size=1, audit_keys=audit_chain.keys_of(config.secrets.peppers))
    try:
        async with database.transaction() as connection:
            user = await users.get_by_email(connection, EMAIL)
            if user is not None and remembered.exists():
                return str(user.id), remembered.read_text()
            if user is None:
                user = await users.create(connection, EMAIL, name="Demo")
                plan = await plans.get(connection, PLAN)
                if plan is None:
                    raise NotFound("plan", PLAN)
                await lifecycle.start(connection, user.id, plan_id=plan.id, now=now())
            secret = compose(config.keys.prefix, token_bytes(ENTROPY_BYTES))
            fingerprint = api_keys.fingerprint(secret, config.secrets.peppers)
            await api_keys.create(connection, user.id, fingerprint=fingerprint, name="demo")
    finally:
        await database.close()
    _remember(remembered, secret.secret)
    return str(user.id), secret.secret


def _remember(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(secret)
