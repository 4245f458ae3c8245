"""Failures of a Stripe that is asked: at any request, before or after it is executed, with an answer or without."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from tests.payments.fake_stripe import FakeStripe

# 500 before and after the request is executed, 500 that Stripe stores under the key, a connection that breaks before
# and after, and 409 for a key that is in use.
KINDS = ("before", "after", "stored", "lost", "cut", "in_use")


class Faults:
    """`plan` gives the kind of failure of the next request; None, and its end: no failure."""

    def __init__(self, world: FakeStripe, serve: Callable[[Request], Awaitable[Response]]) -> None:
        self._world, self._serve = world, serve
        self.plan: Iterator[str | None] = iter(())

    async def serve(self, request: Request) -> Response:
        kind = next(self.plan, None)
        if kind is None:
            return await self._serve(request)
        if kind == "lost":
            raise httpx.ReadTimeout("no answer", request=None)
        if kind == "in_use" and request.method == "POST":
            return JSONResponse({"error": {"message": "in use", "type": "idempotency_error"}}, 409)
        answer = JSONResponse({"error": {"message": "broken", "type": "api_error"}}, 500)
        if kind in ("before", "in_use"):
            return answer
        await self._serve(request)
        if kind == "cut":
            raise httpx.ReadError("the connection broke", request=None)
        if kind == "stored":
            self._world.store_answer(request.headers.get("idempotency-key", ""), {"error": {"type": "api_error"}}, 500)
        return answer
