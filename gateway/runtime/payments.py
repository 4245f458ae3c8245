"""Builds the payment providers that have an API key, and what uses them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from gateway.config import Config
from gateway.config.secrets import ProviderSecrets
from gateway.ledger.db.session import Database
from gateway.meter.journal import Journal
from gateway.workers.runner import Worker
from policies.billing.issuing import Issuer, Seller

if TYPE_CHECKING:
    from gateway.api.checkout import CheckoutService
    from gateway.payments.provider import CardProvider, MeteredProvider, Provider
    from gateway.workers.billing.top_ups import TopUpWorker
    from gateway.workers.billing.usage_reports import UsageReportSender


def _stripe(config: Config, api_key: str, secrets: ProviderSecrets) -> Provider | None:
    from gateway.payments.stripe.adapter import Stripe
    from gateway.payments.stripe.sessions import CheckoutOptions

    settings = config.billing.stripe
    return Stripe(
        api_key,
        api_base=settings.api_base,
        webhook_secrets=secrets.webhook_secrets,
        meter_event_name=settings.meter_event_name,
        checkout_options=CheckoutOptions(
            automatic_tax=settings.automatic_tax,
            tax_id_collection=settings.tax_id_collection,
            promotion_codes=settings.promotion_codes,
            requires_address=settings.billing_address == "required",
        ),
    )


def _lemon_squeezy(config: Config, api_key: str, secrets: ProviderSecrets) -> Provider | None:
    from gateway.payments.lemon_squeezy.adapter import LemonSqueezy

    settings = config.billing.lemon_squeezy
    if settings.store_id is None:
        return None
    return LemonSqueezy(
        api_key,
        api_base=settings.api_base,
        store_id=settings.store_id,
        is_test=settings.test_mode,
        webhook_secrets=secrets.webhook_secrets,
    )


# A factory imports its adapter when it is called: the SDKs are large. None: a setting is missing.
_FACTORIES: Mapping[str, Callable[[Config, str, ProviderSecrets], Provider | None]] = MappingProxyType(
    {"stripe": _stripe, "lemon_squeezy": _lemon_squeezy}
)


@asynccontextmanager
async def open_providers(config: Config) -> AsyncIterator[dict[str, Provider]]:
    """The providers that have an API key, by name, the default first."""
    found: dict[str, Provider] = {}
    for name, build in _FACTORIES.items():
        secrets = config.secrets.providers[name]
        provider = None if secrets.api_key is None else build(config, secrets.api_key, secrets)
        if provider is not None:
            found[name] = provider
    try:
        yield dict(sorted(found.items(), key=lambda item: item[0] != config.billing.provider))
    finally:
        for provider in found.values():
            await provider.close()


def build_issuer(config: Config) -> Issuer:
    seller, invoicing = config.billing.seller, config.billing.invoices
    return Issuer(
        seller=Seller(
            name=seller.name or "",
            address=seller.address,
            tax_id=seller.tax_id or "",
            email=seller.email or "",
            bank=seller.bank,
            time_zone=seller.time_zone,
        ),
        tax_rate=config.billing.tax_rate,
        prefix=invoicing.prefix,
        due_after=timedelta(seconds=invoicing.due_after_seconds),
    )


def invoice_workers(config: Config, database: Database, journal: Journal) -> tuple[Worker, ...]:
    """Empty where the operator issues all invoices."""
    if not config.billing.invoices.automatic:
        return ()
    from gateway.workers.billing.invoices import InvoiceWorker

    close_after = timedelta(seconds=config.billing.invoices.close_after_seconds)
    return (InvoiceWorker(database, journal, issuer=build_issuer(config), close_after=close_after),)


def build_checkout_service(config: Config, database: Database, providers: dict[str, Provider]) -> CheckoutService:
    from gateway.api.checkout import CheckoutService
    from gateway.workers.billing.webhook_processor import WebhookProcessor

    billing = config.billing
    return CheckoutService(
        providers=providers,
        default=next(iter(providers), None),
        packs=billing.packs,
        success_url=billing.success_url or config.portal.link("/paid"),
        cancel_url=billing.cancel_url,
        portal_return_url=billing.portal_return_url,
        issuer=build_issuer(config),
        process_event=WebhookProcessor(database, providers).process,
        requires_verified=config.auth.requires_verified,
    )


def payment_workers(config: Config, database: Database, providers: dict[str, Provider]) -> tuple[Worker, ...]:
    """Empty where no provider is configured."""
    if not providers:
        return ()
    from gateway.workers.billing.key_permissions import KeyPermissionWorker
    from gateway.workers.billing.price_checks import PriceCheckWorker
    from gateway.workers.billing.provider_instructions import ProviderInstructionWorker
    from gateway.workers.billing.provider_poller import ProviderPoller
    from gateway.workers.billing.webhook_processor import WebhookProcessor

    interval = timedelta(seconds=config.billing.poll_interval_seconds)
    pollers = (ProviderPoller(database, provider, interval=interval) for provider in providers.values())
    instructions = (ProviderInstructionWorker(database, provider) for provider in providers.values())
    return (
        WebhookProcessor(database, providers),
        KeyPermissionWorker(providers.values()),
        PriceCheckWorker(database, providers, packs=config.billing.packs),
        *pollers,
        *instructions,
        *_usage_reporters(database, providers),
        *_top_up_workers(config, database, providers),
    )


def _top_up_workers(config: Config, database: Database, providers: dict[str, Provider]) -> tuple[TopUpWorker, ...]:
    from gateway.workers.billing.top_ups import TopUpWorker

    return tuple(
        TopUpWorker(database, cast("CardProvider", provider), packs=config.billing.packs)
        for provider in providers.values()
        if provider.traits.charges_saved_cards
    )


def _usage_reporters(database: Database, providers: dict[str, Provider]) -> tuple[UsageReportSender, ...]:
    from gateway.workers.billing.usage_reports import UsageReportSender

    return tuple(
        UsageReportSender(database, cast("MeteredProvider", provider))
        for provider in providers.values()
        if provider.traits.metered_usage is not None
    )
