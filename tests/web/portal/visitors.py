"""Browsers of the portal: they keep cookies, and send the forms that pages show them."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from datetime import timedelta
from html import unescape
from secrets import token_bytes
from typing import Any
from uuid import UUID, uuid4

import httpx
from starlette.types import ASGIApp

from gateway.api.account.dependencies import AccountDependencies
from gateway.api.checkout import CheckoutService
from gateway.clock import now
from gateway.config.operation.portal import Portal as PortalSettings
from gateway.ledger.accounts import login_sessions, users
from gateway.web.cookies import CookieSigner
from gateway.web.portal.app import build_portal
from policies.access.tokens import REFRESH_BYTES, Purpose, digest, one_time, refresh_token
from tests.ledger.make import list_notifications

PASSWORD = "correct horse battery"
HASH = "$argon2id$v=19$m=19456,t=2,p=1$54Ln18JlZ4HMouCD7c2teA$iXuS+F5m/s8peUnOe+v7bhiv3iJLUnkQ3MAMN2ADY7w"
ORIGIN = "https://gateway.test"
_addresses = itertools.count(1)


@dataclass
class Visitor:
    """A browser with an address of its own. `user_id` is whose session it has, if any."""

    client: httpx.AsyncClient
    user_id: UUID | None = None
    email: str = ""

    async def get(self, path: str, *, status: int = 200, **params: Any) -> str:
        response = await self.client.get(f"/portal{path}", params=params or None)
        assert response.status_code == status, response.text
        return response.text

    async def submit(self, page: str, action: str | None = None, *, status: int = 303, **fields: Any) -> httpx.Response:
        """Sends the form of a page to `action`, which is the page itself where it is left out."""
        token = form_token(await self.get(page))
        sent = {name: value for name, value in fields.items() if value is not None} | {"form_token": token}
        action = page.partition("?")[0] if action is None else action
        response = await self.client.post(f"/portal{action}", data=sent)
        assert response.status_code == status, response.text
        return response

    async def follow(self, response: httpx.Response) -> str:
        location = response.headers["location"]
        assert location.startswith("/portal"), location
        return await self.get(location.removeprefix("/portal"))


@dataclass
class PortalStack:
    """The portal with what stands behind it."""

    app: ASGIApp
    account: AccountDependencies

    def stranger(self, *, origin: str = ORIGIN) -> Visitor:
        """Each from another address (RFC 2544 keeps 198.18/15 for tests), so that no test is slowed down by another."""
        at = next(_addresses)
        transport = httpx.ASGITransport(
            self.app, raise_app_exceptions=True, client=(f"198.19.{at // 256}.{at % 256}", 1)
        )
        return Visitor(httpx.AsyncClient(transport=transport, base_url=origin))

    async def customer(self, *, proven_seconds_ago: int = 0, **fields: Any) -> Visitor:
        """A user with a session. Not by signing in: hashing takes long on purpose."""
        visitor, email = self.stranger(), fields.pop("email", f"{uuid4().hex}@example.com")
        secret = refresh_token(token_bytes(REFRESH_BYTES))
        async with self.account.database.transaction() as connection:
            user = await users.create(connection, email, password_hash=HASH, **fields)
            expires_at = now() + self.account.lifetimes.refresh
            session_id = await login_sessions.create(
                connection, user.id, token_hash=digest(secret), expires_at=expires_at, address=None
            )
        claims = {"sid": str(session_id), "proven": int(now().timestamp()) - proven_seconds_ago}
        signed = CookieSigner(self.account.secret).sign("portal:session", claims, lifetime=timedelta(days=1))
        visitor.client.cookies.set("__Host-gateway_portal_session", signed, domain="gateway.test")
        visitor.user_id, visitor.email = user.id, email
        return visitor

    async def mailed_token(self, user_id: UUID, purpose: Purpose) -> str:
        """The token of the last mail of that purpose, as the mail will have it."""
        async with self.account.database.read() as connection:
            rows = await list_notifications(connection, user_id)
        ids = [payload["token_id"] for kind, payload in rows if kind == f"account.{purpose}"]
        return one_time(self.account.secret, purpose, UUID(ids[-1]))


def build_stack(
    account: AccountDependencies,
    client: httpx.AsyncClient,
    *,
    settings: PortalSettings | None = None,
    checkout_service: CheckoutService | None = None,
) -> PortalStack:
    app = build_portal(
        account,
        checkout_service=checkout_service or CheckoutService(),
        settings=settings or PortalSettings(),
        client=client,
        recent_sign_in=timedelta(minutes=15),
    )
    return PortalStack(app, account)


def form_token(text: str) -> str:
    found = re.search(r'name="form_token" value="([^"]+)"', text)
    assert found is not None, "the page has no form"
    return unescape(found[1])
