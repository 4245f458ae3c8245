"""What an operator makes at Stripe by the API that is also behind the dashboard: prices and webhook endpoints."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from tests.payments.stripe.fake.changes import Refusal

if TYPE_CHECKING:
    from tests.payments.fake_stripe import FakeStripe

Object = dict[str, Any]


class FakeDashboard:
    """Its methods take the form of a request and give the object that was made."""

    def __init__(self, world: FakeStripe) -> None:
        self._world = world
        self._numbers = itertools.count(1)

    def create_price(self, params: Object) -> Object:
        """A price, and the product that it names."""
        if "product_data" not in params or params["currency"] != "usd":
            raise Refusal(400, "You must specify either `product` or `product_data`")
        price_id = f"price_made_{next(self._numbers)}"
        self._world.prices[price_id] = int(params["unit_amount"])
        if "recurring" in params:
            self._world.intervals[price_id] = params["recurring"]["interval"], 1
        return self._world.price(price_id) | {"type": "recurring" if "recurring" in params else "one_time"}

    def create_webhook_endpoint(self, params: Object) -> Object:
        if not params["url"].startswith("https://"):
            raise Refusal(400, "Invalid URL: URL must be publicly accessible")
        return self._world.new("we", "webhook_endpoint", url=params["url"], status="enabled", secret="whsec_made")
