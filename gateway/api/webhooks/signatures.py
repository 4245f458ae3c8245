"""Verifies the signature of an event before the app is asked; the inbox verifies what it stores once more."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import metrics
from gateway.api import error_responses
from gateway.api.checkout import CheckoutService, PaymentsNotConfigured
from gateway.api.middleware import repeating
from gateway.clock import now
from gateway.payments.provider import InvalidWebhook, Provider
from policies.billing.providers import PROVIDERS

PATHS: Mapping[str, str] = {f"/webhooks/{names.path_segment}": names.name for names in PROVIDERS.values()}


class SignatureFilter:
    """Answers what no configured provider has signed: 400 and 501, without reading it where it has no signature."""

    def __init__(self, app: ASGIApp, checkout_service: CheckoutService) -> None:
        self._app = app
        self._checkout_service = checkout_service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = PATHS.get(scope["path"]) if scope["type"] == "http" else None
        if name is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            provider = self._checkout_service.provider(name)
            if provider.traits.signature_field not in request.headers:
                _verify(provider, b"", {})
            message = await receive()
            if message["type"] == "http.request":
                _verify(provider, message.get("body", b""), request.headers)
        except (HTTPException, InvalidWebhook, PaymentsNotConfigured) as error:
            await error_responses.send_failure(error, scope, send)
            return
        await self._app(scope, repeating(message, receive), send)


def _verify(provider: Provider, body: bytes, headers: Mapping[str, str]) -> None:
    """Raises InvalidWebhook, and counts it."""
    try:
        provider.verify(body, headers, now=now())
    except InvalidWebhook:
        metrics.WEBHOOK_EVENTS.labels(provider.name, metrics.OTHER, "refused").inc()
        raise
