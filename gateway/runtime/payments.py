"""Puts together what takes payments: a provider for each secret key that the environment has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from gateway.config import Config
from gateway.ledger.db.session import Database
from gateway.workers.runner import Worker

if TYPE_CHECKING:
    from gateway.api.checkout import Till
    from gateway.payments.provider import Provider


@asynccontextmanager
async def providers_of(config: Config) -> AsyncIterator[dict[str, Provider]]:
    """By name, the default first; none where no key is given. Their modules are imported only then: stripe is large."""
    found: dict[str, Provider] = {}
    secrets, billing = config.secrets, config.billing
    if secrets.stripe_secret_key is not None:
        from gateway.payments.stripe.adapter import Stripe

        found["stripe"] = Stripe(
            secrets.stripe_secret_key,
            api_base=billing.stripe.api_base,
            webhook_secrets=secrets.stripe_webhook_secrets,
        )
    if secrets.lemon_squeezy_api_key is not None and billing.lemon_squeezy.store_id is not None:
        from gateway.payments.lemon_squeezy.adapter import LemonSqueezy

        found["lemon_squeezy"] = LemonSqueezy(
            secrets.lemon_squeezy_api_key,
            api_base=billing.lemon_squeezy.api_base,
            store_id=billing.lemon_squeezy.store_id,
            is_test=billing.lemon_squeezy.test_mode,
            webhook_secrets=secrets.lemon_squeezy_webhook_secrets,
        )
    try:
        yield dict(sorted(found.items(), key=lambda item: item[0] != billing.provider))
    finally:
        for provider in found.values():
            await provider.close()


def till_of(config: Config, database: Database, providers: dict[str, Provider]) -> Till:
    from gateway.api.checkout import Till
    from gateway.workers.billing.webhook_processor import WebhookProcessor

    billing = config.billing
    return Till(
        providers=providers,
        default=next(iter(providers), None),
        packs=billing.packs,
        success_url=billing.success_url,
        cancel_url=billing.cancel_url,
        tax_rate=billing.tax_rate,
        act=WebhookProcessor(database, providers).process,
    )


def payment_workers(config: Config, database: Database, providers: dict[str, Provider]) -> tuple[Worker, ...]:
    """None where no provider is configured."""
    if not providers:
        return ()
    from gateway.workers.billing.provider_cancellation import ProviderCancellationWorker
    from gateway.workers.billing.provider_poller import ProviderPoller
    from gateway.workers.billing.webhook_processor import WebhookProcessor

    interval = timedelta(seconds=config.billing.poll_interval_seconds)
    pollers = (ProviderPoller(database, provider, interval=interval) for provider in providers.values())
    leavers = (ProviderCancellationWorker(database, provider) for provider in providers.values())
    return (WebhookProcessor(database, providers), *pollers, *leavers, *_usage_reporter(config, database, providers))


def _usage_reporter(config: Config, database: Database, providers: dict[str, Provider]) -> tuple[Worker, ...]:
    """Where Stripe is configured: the other provider has no meters."""
    if "stripe" not in providers:
        return ()
    from gateway.payments.stripe.adapter import Stripe
    from gateway.workers.billing.usage_reports import UsageReportSender

    stripe = providers["stripe"]
    assert isinstance(stripe, Stripe)  # noqa: S101 - for the type checker: made above
    event_name = config.billing.stripe.meter_event_name
    return (UsageReportSender(database, stripe, provider_name="stripe", event_name=event_name),)
