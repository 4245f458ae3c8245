"""Puts the paid plans of the demo on sale at the shop of its upstream, which takes no money."""

from __future__ import annotations

from dataclasses import replace
from secrets import token_urlsafe

from gateway.cli.installation import connect
from gateway.config import Config
from gateway.demo.store import STORE_ID, variant_id
from gateway.ledger.catalogue import plans
from gateway.runtime.stores import StoreUrls
from policies.billing.money import to_minor
from policies.billing.providers import PROVIDERS

_SHOP = PROVIDERS["lemon_squeezy"]
_CURRENCY = "USD"


async def open_shop(config: Config, stores: StoreUrls, *, upstream_url: str) -> dict[str, str]:
    """The settings by which the gateway sells at the shop. Plans that have a provider's price keep it."""
    async with connect(config, stores) as database, database.transaction() as connection:
        for number, plan in enumerate(await plans.list_plans(connection), 1):
            terms = plan.terms
            if terms.provider_ids or terms.price <= 0 or terms.currency != _CURRENCY:
                continue
            variant = variant_id(number, cents=to_minor(terms.price, _CURRENCY))
            sold = replace(terms, provider_ids={_SHOP.price_field: variant})
            await plans.change(connection, plan.id, sold)
    section = f"GATEWAY_BILLING__{_SHOP.name.upper()}__"
    return {
        _SHOP.api_key_variable: token_urlsafe(16),
        f"{section}API_BASE": f"{upstream_url}/store",
        f"{section}STORE_ID": STORE_ID,
        f"{section}TEST_MODE": "true",
        # Nothing announces what was bought but the buyer who returns.
        "GATEWAY_BILLING__POLL_INTERVAL": "1m",
    }
