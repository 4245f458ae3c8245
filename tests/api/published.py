"""Both APIs behind sockets in a thread of their own, for synchronous clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_bytes
from uuid import UUID

import uvicorn
from starlette.types import ASGIApp

from gateway.api.account import account_dependencies, build_account
from gateway.clock import now
from gateway.ledger.accounts import login_sessions, users
from gateway.ledger.db.session import Database
from gateway.meter.client.client import RedisClient
from gateway.meter.meter import Meter
from gateway.meter.scripts import SCRIPTS
from gateway.workers.outbox import OutboxPublisher
from policies.access.tokens import REFRESH_BYTES, digest, refresh_token
from tests.api.account.conftest import LIFETIMES, PEPPERS, SECRET, TOKENS
from tests.api.account.conftest import ROUTES as ACCOUNT_ROUTES
from tests.api.conftest import TOKEN, admin_app

START_SECONDS = 30


@dataclass
class Published:
    """Where the APIs are, and the token of the administrator."""

    admin_url: str
    account_url: str
    admin_token: str
    _loop: asyncio.AbstractEventLoop
    _database: Database

    def customer(self, email: str) -> tuple[UUID, str]:
        """A new user with a session: its id and access token."""
        made = asyncio.run_coroutine_threadsafe(self._customer(email), self._loop)
        return made.result(START_SECONDS)

    async def _customer(self, email: str) -> tuple[UUID, str]:
        secret = refresh_token(token_bytes(REFRESH_BYTES))
        async with self._database.transaction() as connection:
            user = await users.create(connection, email)
            session = await login_sessions.create(
                connection, user.id, token_hash=digest(secret), expires_at=now() + LIFETIMES.refresh, address=None
            )
        return user.id, TOKENS.issue(user.id, session)


@contextmanager
def published(database_url: str, redis_url: str) -> Iterator[Published]:
    """Serves until the block ends."""
    found: list[Published] = []
    is_ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        database, redis_client = Database(database_url), RedisClient(redis_url, timeout_seconds=5, scripts=SCRIPTS)
        await redis_client.open()
        publish = OutboxPublisher(database, Meter(redis_client, partitions=4, owner="admin")).publish_all
        servers = [
            _server(admin_app(database, publish, missing={}, redis_client=redis_client)),
            _server(account_app(database, redis_client)),
        ]
        running = [asyncio.create_task(server.serve()) for server in servers]
        while not all(server.started for server in servers):  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        urls = [f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}" for server in servers]
        found.append(Published(urls[0], urls[1], TOKEN, asyncio.get_running_loop(), database))
        is_ready.set()
        await asyncio.to_thread(stop.wait)
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*running)
        await redis_client.close()
        await database.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert is_ready.wait(START_SECONDS), "the APIs do not start"
        yield found[0]
    finally:
        stop.set()
        thread.join(START_SECONDS)


def account_app(database: Database, redis_client: RedisClient) -> ASGIApp:
    meter = Meter(redis_client, partitions=4, owner="account")
    dependencies = account_dependencies(
        database=database,
        publish=OutboxPublisher(database, meter).publish_all,
        jwt_secret=SECRET,
        lifetimes=LIFETIMES,
        key_prefix="gw",
        peppers=PEPPERS,
        entropy=token_bytes,
        meter=meter,
        routes=ACCOUNT_ROUTES,
        past_due_grace=timedelta(days=3),
    )
    return build_account(dependencies)


def _server(app: ASGIApp) -> uvicorn.Server:
    """Clients may say where they come from, by X-Forwarded-For."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=True,
        forwarded_allow_ips="127.0.0.1",
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined] # of uvicorn's older versions
    return server
