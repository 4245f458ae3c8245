"""Refuses tokens that nobody has, common passwords, and attempts that a throttle holds back, before the app is asked.

FastAPI and a transaction cost several times what a good call does. Endpoints look again, for what they change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api import error_responses
from gateway.api.account.authentication import client_address, get_bearer
from gateway.api.account.dependencies import AccountDependencies
from gateway.api.account.login import password_login, recovery, sessions, throttling
from gateway.api.account.login.new_passwords import check_new_password
from gateway.api.errors import Invalid, NotAuthenticated, Throttled
from gateway.ledger.accounts import throttles
from gateway.ledger.accounts.stored_digests import REFRESH_TOKENS, StoredDigests
from gateway.ledger.db.session import DatabaseUnavailable
from policies.access import tokens

Check = Callable[[Any, Request], Awaitable[None]]


class CredentialFilter:
    """Answers 401, 422 and 429 to what `BodyFilter` has validated."""

    def __init__(self, app: ASGIApp, dependencies: AccountDependencies) -> None:
        self._app = app
        self._dependencies = dependencies
        self._stored = StoredDigests(dependencies.database, REFRESH_TOKENS)
        self._checks: dict[str, Check] = {
            "/auth/register": self._check_registration,
            "/auth/login": self._check_login,
            "/auth/forgot-password": self._check_mail,
            "/auth/refresh": self._check_refresh,
            "/auth/logout": self._check_logout,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        check, state = self._checks.get(scope.get("path", "")), scope.get("state", {})
        if check is not None and "body" in state:
            request = Request(scope)
            try:
                await check(state["body"], request)
            except (Invalid, NotAuthenticated, Throttled, DatabaseUnavailable) as error:
                await error_responses.send_failure(error, scope, send)
                return
        await self._app(scope, receive, send)

    async def _check_registration(self, body: sessions.Registration, request: Request) -> None:
        await check_new_password(body.password, email=body.email, field="password")
        attempt = throttling.of_registration(client_address(request))
        throttling.check(attempt, await throttles.find(self._dependencies.database, attempt))

    async def _check_login(self, body: sessions.Login, request: Request) -> None:
        await password_login.find_attempt(self._dependencies, body.email, address=client_address(request))

    async def _check_mail(self, body: recovery.PasswordResetRequest, request: Request) -> None:
        await recovery.find_attempt(self._dependencies, body.email, address=client_address(request))

    async def _check_refresh(self, body: sessions.TokenRefresh, request: Request) -> None:
        if not await self._is_stored(body.refresh_token):
            throttling.record_failure("refresh_token", address=client_address(request))
            raise NotAuthenticated(sessions.UNUSABLE_TOKEN)

    async def _check_logout(self, body: sessions.Logout | None, request: Request) -> None:
        if body is not None and body.refresh_token is not None:
            is_known = await self._is_stored(body.refresh_token)
        else:
            is_known = sessions.read_session(self._dependencies, await get_bearer(request)) is not None
        if not is_known:
            raise NotAuthenticated(sessions.NO_SESSION)

    async def _is_stored(self, refresh_token: str) -> bool:
        return await self._stored.has_any((tokens.digest(refresh_token),))
