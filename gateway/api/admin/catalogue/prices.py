"""Prices of routes, as the configuration has them, and what a call would cost by them."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.admin.dependencies import DependenciesDep
from gateway.api.errors import Invalid
from gateway.api.openapi import UNKNOWN
from gateway.api.schemas.billing_records import ShownAs
from gateway.api.schemas.fields import Count, Line, Word
from gateway.api.schemas.pages import PageModel, RequestModel, ResponseModel, ShortListQuery, page_of_all
from gateway.ledger.db.errors import NotFound
from policies.billing.money import margin, plain
from policies.model import Route
from policies.pricing import model_costs
from policies.pricing.price import Price
from policies.pricing.price_list import PriceList
from policies.pricing.prices import cost, explain
from policies.usage.counts import Usage, UsageClass

router = APIRouter(prefix="/prices", tags=["plans"])


class RoutePrice(ResponseModel):
    endpoint: str = Field(description="The route's name.")
    model: str | None = Field(description="A model, or a pattern that ends in `*`; null: whatever is called.")
    per: str = Field(examples=["1000000 tokens"])
    credits: dict[str, str] = Field(description="By class of usage, or of one `unit`.")
    feature: str | None = Field(description="The plan feature that the model needs.")


class PriceQuestion(RequestModel):
    route: Word = Field(examples=["chat"])
    model: Line | None = Field(default=None, description="On routes priced by model.")
    input_tokens: Count = Field(default=0, description="All input, the cached included.")
    cached_input_tokens: Count = 0
    output_tokens: Count = 0
    units: Count = Field(default=1, description="Items, minutes or tokens, on routes with one price.")


class PriceAnswer(ResponseModel):
    credits: int
    credits_shown_as: ShownAs | None
    computed: str = Field(examples=["2 credits per item x 3 items"])
    cost_usd: Decimal | None = Field(description="What the upstream asks; null where it is not known.")
    margin_usd: Decimal | None = Field(description="The credits as money, less the cost.")


class PricesQuery(ShortListQuery):
    endpoint: Line | None = Field(default=None, description="Only this route's.")


@router.get("", summary="List prices")
async def list_prices(query: Annotated[PricesQuery, Query()], dependencies: DependenciesDep) -> PageModel[RoutePrice]:
    """In the order of the routes."""
    routes = [route for route in dependencies.routes.values() if query.endpoint in (None, route.name)]
    return page_of_all([row for route in routes for row in _rows(route)], query)


@router.post("/quote", summary="What a call would cost, whoever makes it", responses=UNKNOWN)
async def quote_price(body: PriceQuestion, dependencies: DependenciesDep) -> PriceAnswer:
    """By the present prices; nothing is counted or charged."""
    route = dependencies.routes.get(body.route)
    if route is None:
        raise NotFound("route", body.route)
    credits, computed, cost_usd = _quote(route.price, body)
    return PriceAnswer(
        credits=credits,
        credits_shown_as=ShownAs.of_call(dependencies.credit_value, credits),
        computed=computed,
        cost_usd=cost_usd,
        margin_usd=None if cost_usd is None else margin(credits, cost_usd, dependencies.credit_value).margin_usd,
    )


def _quote(price: Price | PriceList, body: PriceQuestion) -> tuple[int, str, Decimal | None]:
    """Credits, how they came about, and the upstream's cost."""
    if isinstance(price, Price):
        return cost(price, body.units), explain(price, body.units), None
    found = price.find(body.model)
    if found is None:
        raise Invalid("model", f"the price list {price.name} does not name it")
    if body.cached_input_tokens > body.input_tokens:
        raise Invalid("cached_input_tokens", "are part of input_tokens")
    usage = Usage(
        {
            UsageClass.INPUT: body.input_tokens,
            UsageClass.CACHED_INPUT: body.cached_input_tokens,
            UsageClass.OUTPUT: body.output_tokens,
        }
    )
    charged = model_costs.cost(price, found, usage)
    model, costs = body.model, price.costs
    asked = None if costs is None else model_costs.cost_usd(costs, usage, served=model, asked=model)
    return charged.credits, model_costs.explain(price, charged), asked


def _rows(route: Route) -> list[RoutePrice]:
    price = route.price
    per = price.unit.phrase(price.unit_size)
    if isinstance(price, Price):
        unit = {"unit": plain(price.credits)}
        return [RoutePrice(endpoint=route.name, model=None, per=per, credits=unit, feature=route.feature)]
    return [
        RoutePrice(
            endpoint=route.name,
            model=name,
            per=per,
            credits={str(kind): plain(rate) for kind, rate in model.rates.items()},
            feature=model.feature,
        )
        for name, model in price.models.items()
    ]
