"""The first call: examples with the customer's own address and route, and one that is made here and now."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
from starlette.responses import Response

from gateway.api.account import keys
from gateway.api.account.billing.quote import Quote, quote
from gateway.api.account.records.usage import Call, CallAggregateQuery, calls
from gateway.api.dry_run import DryRunResult
from gateway.api.schemas.api_keys import NewKeyTerms
from gateway.clock import monotonic_seconds, now
from gateway.web.forms import Form
from gateway.web.pages import PageRoutes
from gateway.web.portal.customer import Customer, Portal
from gateway.web.portal.once import once
from policies.model import Route
from policies.pricing.price import Price
from policies.pricing.price_list import PriceList, ReaderName
from policies.pricing.units import PriceUnit

KEY_IN_EXAMPLES = "YOUR_API_KEY"
MAX_SHOWN_BYTES = 8 * 1024
TEMPORARY_KEY = "test call"
TEMPORARY_LIFETIME = timedelta(minutes=5)

customers: PageRoutes[Customer] = PageRoutes()


class Examples(NamedTuple):
    curl: str
    python: str
    node: str


class TestCall(NamedTuple):
    """What became of a call: its response, and its receipt once the usage writer has it."""

    status: int
    headers: Mapping[str, str]
    body: str
    receipt: Call | None


@customers.get("/first-call")
async def show_first_call(page: Customer) -> Response:
    return await _render(page)


@customers.post("/first-call")
@once(repeats_to="/usage")
async def send_test_call(page: Customer) -> Response:
    """By the key in the form, or by one that lives for the call alone."""
    form = page.visit.form
    route = _chosen(page)

    async def call() -> TestCall | None:
        secret = form.text("key")
        if route is None:
            return None
        if secret is not None:
            return await _send(page, route, secret, form.raw("body"))
        terms = NewKeyTerms(name=TEMPORARY_KEY, expires_at=now() + TEMPORARY_LIFETIME)
        made = await keys.create_key(terms, page.me, page.portal.account.key_factory)
        try:
            return await _send(page, route, made.key, form.raw("body"))
        finally:
            await keys.revoke_key(made.id, page.me)

    return await _render(page, made=await form.submit(call))


def first_route(portal: Portal) -> Route | None:
    """The configured one, or else the first that has a price."""
    routes = portal.account.routes
    if portal.settings.first_call is not None:
        return routes.get(portal.settings.first_call)
    return next((route for route in routes.values() if is_callable(route)), None)


def is_callable(route: Route) -> bool:
    """Whether a page can show how it is called: by a plain path, with a body of JSON or none, outside a session."""
    is_mcp = isinstance(route.price, PriceList) and route.price.reader is ReaderName.MCP
    return not route.serves_models and "*" not in route.path and not route.websocket and not is_mcp


async def quote_of(page: Customer, route: Route) -> DryRunResult | None:
    """What the example would cost now, and whether it would be admitted; None where the example cannot be priced."""
    body = sample_body(route)
    facts: dict[str, Any] = {"body": json.loads(body)} if body else {}
    if isinstance(route.price, PriceList):
        facts = {"model": facts["body"]["model"], "input_tokens": 10, "output_tokens": 50} if facts else {}
    asked = Quote.model_validate({"route": route.name, **facts})
    return await Form().submit(lambda: quote(asked, page.me, page.portal.account, page.visit.address))


def base_url(page: Customer) -> str:
    """The public listener as the customer knows it."""
    configured = page.portal.settings.url
    if configured is not None:
        return configured
    parts = urlsplit(str(page.visit.request.base_url))
    return f"{parts.scheme}://{parts.netloc}"


def examples(page: Customer, route: Route, secret: str = KEY_IN_EXAMPLES) -> Examples:
    method, url, body = method_of(route), base_url(page) + route.path, sample_body(route)
    if body is None:
        curl = f"curl -X {method} {url} \\\n  -H 'Authorization: Bearer {secret}'"
        python_more, node_more = "", ""
    else:
        curl = (
            f"curl {url} \\\n  -H 'Authorization: Bearer {secret}' \\\n  -H 'Content-Type: application/json' \\\n"
            f"  -d '{body}'"
        )
        python_more = f"\n    json={json.loads(body)!r},"
        node_more = f"\n  body: JSON.stringify({body}),"
    python = (
        f'import requests\n\nresponse = requests.request(\n    "{method}",\n    "{url}",\n'
        f'    headers={{"Authorization": "Bearer {secret}"}},{python_more}\n)\n'
        "print(response.status_code, response.json())"
    )
    node_type = '\n    "Content-Type": "application/json",' if body is not None else ""
    node = (
        f'const response = await fetch("{url}", {{\n  method: "{method}",\n'
        f'  headers: {{\n    Authorization: "Bearer {secret}",{node_type}\n  }},{node_more}\n}});\n'
        "console.log(response.status, await response.json());"
    )
    return Examples(curl, python, node)


def method_of(route: Route) -> str:
    return "POST" if "POST" in route.methods else min(route.methods)


def sample_body(route: Route) -> str | None:
    """A body that the price can count; None for a method without one."""
    if method_of(route) not in ("POST", "PUT", "PATCH"):
        return None
    price = route.price
    if isinstance(price, PriceList):
        return json.dumps({"model": _model(price), **_prompt(price, route.path)})
    return json.dumps(_counted(price)) if price.is_counted_in_request else '{"text": "Hello"}'


def _model(prices: PriceList) -> str:
    """One that every plan has, where there is one, by its own name rather than by a pattern."""
    names = sorted(prices.models, key=lambda name: (prices.models[name].feature is not None, name.endswith("*")))
    return next((name.removesuffix("*") for name in names), "") or "demo"


def _counted(price: Price) -> dict[str, Any]:
    """A document with a text, or a list of one, at the first place where units are counted."""
    found: Any = "Hello" if price.unit is PriceUnit.CHARACTER else ["example"]
    for name in reversed(price.pointers[0].strip("/").split("/")):
        found = {name: found}
    return dict(found)


def _prompt(prices: PriceList, path: str) -> dict[str, Any]:
    """What the API of this path takes besides a model."""
    if path.endswith(("/responses", "/embeddings")):
        return {"input": "Hello"}
    more = {"max_tokens": 50} if prices.reader is ReaderName.ANTHROPIC else {}
    return {**more, "messages": [{"role": "user", "content": "Hello"}]}


async def _render(page: Customer, made: TestCall | None = None) -> Response:
    form, route = page.visit.form, _chosen(page)
    names = [(each.name, each.name) for each in page.portal.account.routes.values() if is_callable(each)]
    context: dict[str, Any] = {"route": route, "routes": names, "form": form, "made": made}
    if route is not None:
        context["method"], context["body"] = method_of(route), sample_body(route)
        context["examples"], context["base_url"] = examples(page, route), base_url(page)
        context["quote"] = await quote_of(page, route)
    return page.visit.render("portal/first_call.html", status=form.status, **context)


def _chosen(page: Customer) -> Route | None:
    name = page.visit.form.text("route") or page.visit.request.query_params.get("route")
    found = page.portal.account.routes.get(name) if name else None
    return found if found is not None and is_callable(found) else first_route(page.portal)


async def _send(page: Customer, route: Route, secret: str, body: str) -> TestCall:
    """The real thing: through the public listener, like any other call."""
    headers = {"authorization": f"Bearer {secret.encode('ascii', 'replace').decode()}"}
    content = body.encode() if sample_body(route) is not None else None
    if content is not None:
        headers["content-type"] = "application/json"
    try:
        response = await page.portal.client.request(method_of(route), route.path, content=content, headers=headers)
    except httpx.HTTPError as error:
        return TestCall(0, {}, f"The gateway did not answer: {type(error).__name__}", None)
    shown = {name: value for name, value in response.headers.items() if name not in ("date", "connection")}
    reached_admission = "x-credits-remaining" in response.headers  # what is refused before has no record
    receipt = await _receipt(page, response.headers.get("x-request-id")) if reached_admission else None
    return TestCall(response.status_code, shown, _text(response), receipt)


async def _receipt(page: Customer, request_id: str | None) -> Call | None:
    """Once the usage writer has it, which takes about a second; None if it takes too long."""
    next_page = calls(CallAggregateQuery(), page.me.id, page.portal.account)
    give_up_at = monotonic_seconds() + page.portal.receipt_seconds
    while request_id is not None:
        found = next((call for call in (await next_page(None, 10)).data if str(call.request_id) == request_id), None)
        if found is not None or monotonic_seconds() > give_up_at:
            return found
        await asyncio.sleep(0.2)
    return None


def _text(response: httpx.Response) -> str:
    body = response.content[:MAX_SHOWN_BYTES].decode("utf-8", "replace")
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except ValueError:
        return body
