"""Builds the admin API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from secrets import token_bytes
from typing import Any

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config import Config
from gateway.config.quantities import Address
from gateway.ledger.db.session import Database
from gateway.meter.account_snapshots import AccountSnapshotReader
from gateway.meter.meter import Meter
from gateway.runtime.health.readiness import Readiness
from gateway.runtime.payments import build_checkout_service, open_providers
from gateway.runtime.store_connections import BACKGROUND_TIMEOUT_SECONDS, open_stores, probe_of_stores
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.usage.reconciliation import Reconciler
from policies.model import Route

ASK_SECONDS = 3.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where this machine reaches a listener of all addresses


@asynccontextmanager
async def control_plane(
    config: Config,
    readiness: Readiness,
    routes: Mapping[str, Route],
    *,
    targets: Mapping[str, Sequence[str]],
    public_url: str | None = None,
) -> AsyncIterator[Any]:
    """The admin API, whose probe joins `readiness`. It reads `routes` and the `targets` of upstreams at each request.

    Imported here because FastAPI takes 0.4 s to import, which a public worker avoids.
    """
    from gateway.api.admin import build_admin
    from gateway.web.console.app import ROOT, build_console

    async with (
        open_stores(config, timeout_seconds=BACKGROUND_TIMEOUT_SECONDS) as (database, redis_client),
        open_providers(config) as providers,
        httpx.AsyncClient(timeout=ASK_SECONDS, trust_env=False) as client,
    ):
        readiness.add(probe_of_stores(database, redis_client))
        health = HealthClient(config.server.health, client)
        meter = Meter(redis_client, partitions=config.redis.partitions, owner="admin")
        admin = build_admin(
            database=database,
            publish=OutboxPublisher(database, meter).publish_all,
            admin_token=config.secrets.admin_token,
            key_prefix=config.keys.prefix,
            peppers=config.secrets.peppers,
            entropy=token_bytes,
            meter=meter,
            routes=routes,
            targets=targets,
            past_due_grace=timedelta(seconds=config.billing.past_due_grace_seconds),
            credit_value=config.credits.money,
            reconcile_books=reconciliation(database, AccountSnapshotReader(redis_client, meter)),
            metrics_text=health.metrics_text,
            readiness=health.missing,
            checkout_service=build_checkout_service(config, database, providers),
            portal_url=config.portal.url or public_url,
            return_origins=config.portal.return_origins,
            hosts=(config.server.admin.host, *config.server.admin_hosts),
            export_dir=config.data_dir / "exports",
        )
        # Its cookies are signed by a key of the admin token, so another token ends all sessions.
        console = build_console(
            admin, secret=config.secrets.admin_token, settings=config.console, provider=_provider(config, client)
        )
        yield ByPath({ROOT: console}, otherwise=admin)


def _provider(config: Config, client: httpx.AsyncClient) -> Any:
    """The OpenID provider of operators; None where none is set up."""
    if config.console.oidc is None:
        return None
    from gateway.web.console.single_sign_on.provider import OpenIdProvider

    return OpenIdProvider(config.console.oidc, secret=config.secrets.oidc_client_secret, client=client)


class ByPath:
    """Applications by the path that they are at, and one for all else."""

    def __init__(self, apps: Mapping[str, ASGIApp], *, otherwise: ASGIApp) -> None:
        self._apps = apps
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        for root, app in self._apps.items():
            if path == root or path.startswith(f"{root}/"):
                await app(scope, receive, send)
                return
        await self._otherwise(scope, receive, send)


def reconciliation(database: Database, audit: AccountSnapshotReader) -> Callable[[str | None], AsyncIterator[Any]]:
    """Reconciles all accounts, page by page, in the form that the admin API expects."""
    from gateway.api.admin.dependencies import ReconciledDifference, ReconciledPage

    async def pages(actor: str | None) -> AsyncIterator[ReconciledPage]:
        async for page in Reconciler(database, audit, repair_as=actor).pages():
            differences = tuple(
                ReconciledDifference(each.user_id, each.difference, each.is_repaired) for each in page.findings
            )
            yield ReconciledPage(page.accounts, page.loaded, differences)

    return pages


class HealthClient:
    """What the admin listener tells of its group, by asking the health listener: its supervisor knows all processes."""

    def __init__(self, address: Address, client: httpx.AsyncClient) -> None:
        self._url = f"http://{Address(_ANY.get(address.host, address.host), address.port)}"
        self._client = client

    async def missing(self) -> Mapping[str, str]:
        """What keeps the group from serving; the supervisor's log has the reasons."""
        try:
            answer = await self._client.get(f"{self._url}/readyz")
        except httpx.HTTPError as error:
            return {"supervisor": f"{self._url}: {error!r}"}
        return dict.fromkeys(answer.json()["missing"], f"as {self._url} says")

    async def metrics_text(self) -> bytes:
        """All series of the group. Raises httpx.HTTPError."""
        answer = await self._client.get(f"{self._url}/metrics")
        return answer.raise_for_status().content
