"""A console whose operators sign in by a provider on the loopback, or by a trusted proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.admin import AdminApi
from gateway.config.operation.console import Console, Oidc
from gateway.web.console.app import build_console
from gateway.web.console.single_sign_on.provider import OpenIdProvider
from tests.api.conftest import TOKEN
from tests.web.browser.conftest import _served
from tests.web.console.operators import ORIGIN, Browser
from tests.web.console.single_sign_on.provider import CLIENT_ID, SECRET, Provider

SCOPES: Any = {"support": ("read", "credits:write"), "admins": ("all",)}


@pytest.fixture(scope="package")
async def address() -> AsyncIterator[tuple[str, list[Provider]]]:
    """Where the provider of the moment answers."""
    current: list[Provider] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await current[-1].app()(scope, receive, send)

    async with _served(app) as origin:
        yield origin, current


@pytest.fixture
def provider(address: tuple[str, list[Provider]]) -> Provider:
    origin, current = address
    current[:] = [Provider(origin)]
    return current[0]


@pytest.fixture
async def settings(provider: Provider) -> Console:
    return Console(oidc=Oidc(issuer=provider.issuer, client_id=CLIENT_ID, url=ORIGIN), scopes=SCOPES)


@pytest.fixture
async def operator(admin: AdminApi, settings: Console) -> AsyncIterator[Browser]:
    assert settings.oidc is not None
    async with httpx.AsyncClient(trust_env=False) as client:
        provider = OpenIdProvider(settings.oidc, secret=SECRET, client=client)
        async with browser_of(build_console(admin, secret=TOKEN, settings=settings, provider=provider)) as found:
            yield Browser(found)


def browser_of(app: ASGIApp, *, peer: str = "127.0.0.1", headers: Any = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, client=(peer, 1))
    return httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers)
