"""An operator whose gateway sells by a provider."""

from __future__ import annotations

from typing import Any

import httpx

from gateway.api.admin import AdminApi
from gateway.ledger.accounts.users import User
from gateway.workers.billing.provider_instructions import ProviderInstructionWorker
from tests.api.conftest import admin_app, client_of
from tests.payments.payment_stack import PaymentStack
from tests.payments.test_stripe_lifecycle import current_subscription


def admin_of(stack: PaymentStack) -> AdminApi:
    async def publish() -> None:
        return None

    app = admin_app(stack.database, publish, missing={}, checkout_service=stack.checkout_service)
    assert isinstance(app, AdminApi)
    return app


def admin_client(stack: PaymentStack) -> httpx.AsyncClient:
    return client_of(admin_of(stack))


async def call(stack: PaymentStack, user: User, verb: str, **body: Any) -> httpx.Response:
    found = await current_subscription(stack, user)
    async with admin_client(stack) as client:
        return await client.post(f"/admin/v1/subscriptions/{found.id}/{verb}", json=body or None)


async def instruct(stack: PaymentStack) -> None:
    await ProviderInstructionWorker(stack.database, stack.provider).run_once()
