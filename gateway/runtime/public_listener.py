"""The public listener: the account API and the portal on reserved paths, the proxy on all others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_bytes
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp

from gateway import metrics
from gateway.config import Config
from gateway.config.routes import is_page, is_reserved
from gateway.config.server import Cors
from gateway.http.fields import HeaderBlock
from gateway.listener.cors import CorsPolicy, is_preflight
from gateway.listener.exchange import Exchange
from gateway.meter.meter import Meter
from gateway.proxy.handler import Handler
from gateway.proxy.request.inbound import Network, read_request
from gateway.request_ids import uuid7
from gateway.runtime.payments import build_checkout_service, open_providers
from gateway.runtime.store_connections import BACKGROUND_TIMEOUT_SECONDS, open_stores
from gateway.workers.outbox import OutboxPublisher
from policies.model import Route

if TYPE_CHECKING:
    from gateway.api.account.dependencies import AccountDependencies
    from gateway.api.checkout import CheckoutService

ACCOUNT_METHODS = "DELETE, GET, PATCH, POST, PUT"


class PublicListener:
    """Dispatches each request by its path. A proxied one costs two lookups more, and no further coroutine."""

    def __init__(
        self,
        proxy: Handler,
        account: ASGIApp,
        *,
        cors: Cors,
        trusted_proxies: Sequence[Network] = (),
        portal: ASGIApp | None = None,
    ) -> None:
        self._cors: CorsPolicy | None = None
        self.allow(cors)
        self._proxy = proxy
        self._account = account
        self._portal = portal
        self._trusted_proxies = trusted_proxies

    def allow(self, cors: Cors) -> None:
        """Lets the pages of these origins in, from the next request on."""
        self._cors = CorsPolicy(cors.origins) if cors.origins else None

    def __call__(self, scope: Any, receive: Any, send: Any) -> Coroutine[Any, Any, None]:
        if self._cors is not None:
            return self._serve_pages(self._cors, scope, receive, send=send)
        serve = self._answer if is_reserved(scope["raw_path"]) else self._proxy
        return serve(scope, receive, send)

    async def _serve_pages(self, cors: CorsPolicy, scope: Any, receive: Any, *, send: Any) -> None:
        """Serves a request that a page of another origin may have made. Its preflight needs no key and no account."""
        exchange: Exchange = scope["extensions"]["gateway.client"]
        exchange.added_fields = cors.response_fields(scope["headers"])
        if is_preflight(scope) and (methods := self._methods(scope["raw_path"])):
            metrics.REQUESTS.labels(metrics.OTHER, metrics.OTHER, "204").inc()
            request_id = f"x-request-id: {uuid7()}\r\n".encode()
            exchange.answer(204, HeaderBlock(cors.preflight_fields(scope["headers"], methods) + request_id), b"")
            return
        serve = self._answer if is_reserved(scope["raw_path"]) else self._proxy
        await serve(scope, receive, send)

    def _methods(self, raw_path: bytes) -> str | None:
        if is_page(raw_path):
            return None  # pages are for their own origin
        return ACCOUNT_METHODS if is_reserved(raw_path) else self._proxy.allowed_methods(raw_path)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if self._portal is not None and is_page(scope["raw_path"]):
            await self._portal(scope, receive, send)
            return
        # Throttling must slow down the client, not the proxy in front of the gateway.
        client_ip = read_request(scope, self._trusted_proxies).client_ip
        await self._account({**scope, "client": (client_ip, 0)}, receive, send)


@dataclass(frozen=True, slots=True)
class AccountParts:
    """What both the account API and the portal are built of."""

    dependencies: AccountDependencies
    checkout_service: CheckoutService


@asynccontextmanager
async def account_api(config: Config, routes: Mapping[str, Route]) -> AsyncIterator[ASGIApp]:
    """The account API, which reads `routes` at each request."""
    from gateway.api.account import build_account

    async with account_parts(config, routes, owner="account") as parts:
        yield build_account(parts.dependencies, checkout_service=parts.checkout_service)


@asynccontextmanager
async def account_parts(config: Config, routes: Mapping[str, Route], *, owner: str) -> AsyncIterator[AccountParts]:
    """They have connections of their own, so that customers who read their usage take none from calls."""
    from gateway.api.account import account_dependencies
    from gateway.api.account.dependencies import Lifetimes

    auth = config.auth
    async with (
        open_stores(config, timeout_seconds=BACKGROUND_TIMEOUT_SECONDS) as (database, redis_client),
        open_providers(config) as providers,
    ):
        meter = Meter(redis_client, partitions=config.redis.partitions, owner=owner)
        dependencies = account_dependencies(
            database=database,
            publish=OutboxPublisher(database, meter).publish_all,
            jwt_secret=config.secrets.jwt_secret,
            lifetimes=Lifetimes(
                access=timedelta(seconds=auth.access_ttl_seconds),
                refresh=timedelta(seconds=auth.refresh_ttl_seconds),
                verify_email=timedelta(seconds=auth.verify_ttl_seconds),
                reset_password=timedelta(seconds=auth.reset_ttl_seconds),
                refresh_reuse=timedelta(seconds=auth.refresh_reuse_seconds),
            ),
            key_prefix=config.keys.prefix,
            peppers=config.secrets.peppers,
            entropy=token_bytes,
            meter=meter,
            routes=routes,
            past_due_grace=timedelta(seconds=config.billing.past_due_grace_seconds),
            credit_value=config.credits.money,
        )
        yield AccountParts(dependencies, build_checkout_service(config, database, providers))
