"""Quotes: dry runs of calls, for their price and admission."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.account.dependencies import ClientAddress, DependenciesDep, Me
from gateway.api.account.records.limits import account_of
from gateway.api.dry_run import DryRunResult
from gateway.api.errors import Invalid
from gateway.api.openapi import SIGNED_IN, UNKNOWN
from gateway.api.schemas.fields import Count, Line, Size
from gateway.api.schemas.pages import RequestModel
from gateway.ledger.accounts import principals
from gateway.ledger.db.errors import NotFound
from policies.model import Key, Refused
from policies.pricing import prices
from policies.pricing.forecasts import Facts
from policies.pricing.json_pointer import resolve_first
from policies.pricing.price import Price
from policies.pricing.price_list import PriceList

router = APIRouter(prefix="/me", tags=["limits"], responses=SIGNED_IN)


class Quote(RequestModel):
    """What you know of the call: a body to count items in, or their number."""

    route: Line = Field(examples=["generate"], description="Its name, as in `/me/usage`.")
    units: Count | None = Field(default=None, description="Items, tokens or minutes, as the route is priced by.")
    body: Any = Field(default=None, examples=[{"products": ["lamp", "chair"]}], description="Counted by the price.")
    model: Line | None = Field(default=None, description="The model that it asks for, on routes priced by model.")
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    body_bytes: Size | None = None
    key_id: UUID | None = Field(default=None, description="The key that would make the call.")


@router.post("/quote", summary="What a call would cost, and whether it would be admitted", responses=UNKNOWN)
async def quote(body: Quote, me: Me, dependencies: DependenciesDep, address: ClientAddress) -> DryRunResult:
    """Nothing is counted, held or charged."""
    route = dependencies.routes.get(body.route)
    if route is None:
        raise NotFound("route", body.route)
    async with dependencies.database.read() as connection:
        account = await account_of(connection, me.id)
        key = None if body.key_id is None else await _key(connection, me.id, body.key_id)
    facts = Facts(
        units=_units(route.price, body),
        model=body.model,
        input_tokens=body.input_tokens,
        output_tokens=body.output_tokens,
        body_bytes=body.body_bytes,
        client_ip=address if key else None,
    )
    return await dependencies.dry_run.run(account, key, route=route, facts=facts)


def _units(price: Price | PriceList, body: Quote) -> int | None:
    if body.units is not None or body.body is None or not isinstance(price, Price) or not price.is_counted_in_request:
        return body.units
    try:
        return prices.units_in_request(price, resolve_first(body.body, price.pointers))
    except Refused as refused:
        raise Invalid("body", refused.detail) from None


async def _key(connection: AsyncConnection, user_id: UUID, key_id: UUID) -> Key:
    found = await principals.find_key(connection, user_id, key_id)
    if found is None:
        raise NotFound("key", key_id)
    return found
