"""Invoices with their first lines only, as Stripe's have: prorations come first, a period's own line last."""

from __future__ import annotations

from typing import Any

import httpx

from tests.payments.fake_stripe import FakeStripe, Object

LINES_OF_AN_INVOICE = 10  # https://docs.stripe.com/api/invoices/object#invoice_object-lines


class PagedLines(httpx.AsyncBaseTransport):
    """Leads to the fake."""

    def __init__(self, world: FakeStripe) -> None:
        self._world = world
        self._inner = httpx.ASGITransport(world.app)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.split("/")
        if path[-1] == "lines":
            return httpx.Response(200, json=self._page(path[-2], dict(request.url.params)))
        response = await self._inner.handle_async_request(request)
        found = httpx.Response(response.status_code, content=await response.aread()).json()
        if found.get("object") == "invoice":
            found["lines"] = _first(found["lines"]["data"], LINES_OF_AN_INVOICE)
        return httpx.Response(response.status_code, json=found)

    def _page(self, invoice_id: str, wanted: dict[str, str]) -> Object:
        lines = self._world.objects[invoice_id]["lines"]["data"]
        ids = [line["id"] for line in lines]
        start = ids.index(wanted["starting_after"]) + 1 if "starting_after" in wanted else 0
        return _first(lines[start:], min(int(wanted.get("limit", 10)), 100))


def _first(lines: list[Any], count: int) -> Object:
    return {"object": "list", "url": "/v1/lines", "data": lines[:count], "has_more": len(lines) > count}
