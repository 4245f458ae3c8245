"""Lemon Squeezy over httpx: JSON:API requests, its rate limit kept to, its answers read by `lemon_squeezy_objects`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx

from gateway.payments.lemon_squeezy import objects as objects
from gateway.payments.provider import (
    CONNECT_TIMEOUT_SECONDS,
    TIMEOUT_SECONDS,
    Changes,
    InvalidWebhook,
    KeyRefused,
    PlacedCheckout,
    ProviderRefused,
    ProviderUnavailable,
    Purchase,
    Refunded,
    Report,
    read_changes,
)
from gateway.payments.signatures import verify_lemon_squeezy
from policies.billing.money import to_minor
from policies.billing.payments import About, Event, RemoteCheckout, Snapshot, Subject

# https://docs.lemonsqueezy.com/api/getting-started/requests: 300 a minute, then 429.
RETRIES = 2
MAX_PAUSE_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.5
PAGE = 100
# Its times are whole seconds of its own clock.
CLOCK_SKEW = timedelta(minutes=5)

# What is walked through for changes, and the event that each stands in for.
_WALK = {
    "subscriptions": "subscription_updated",
    "subscription-invoices": "subscription_payment_success",
    "orders": "order_created",
}


class LemonSqueezy:
    """One store, in test mode or not: the API key alone does not say which."""

    name = "lemon_squeezy"

    def __init__(
        self,
        api_key: str,
        *,
        api_base: str,
        store_id: str,
        is_test: bool,
        webhook_secrets: Sequence[str],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._store_id = store_id
        self._is_test = is_test
        self._secrets = tuple(webhook_secrets)
        self._http = httpx.AsyncClient(
            base_url=f"{api_base.rstrip('/')}/v1",
            headers={"authorization": f"Bearer {api_key}", "accept": "application/vnd.api+json"},
            timeout=httpx.Timeout(TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS),
            transport=transport,
        )

    async def create_customer(self, user_id: str, *, email: str, name: str | None) -> str:  # noqa: ARG002 - it keeps none of ours
        """A store has one customer per address, so asking again finds the one that is there."""
        known = await self._get("/customers", {"filter[store_id]": self._store_id, "filter[email]": email})
        if known["data"]:
            return str(known["data"][0]["id"])
        body = self._resource("customers", {"name": name or email, "email": email}, store=self._store_id)
        return str((await self._send("POST", "/customers", body))["data"]["id"])

    async def create_checkout(self, purchase: Purchase) -> PlacedCheckout:
        chosen: dict[str, Any] = {"email": purchase.email, "custom": {objects.REFERENCE: purchase.reference}}
        if purchase.quantity > 1:
            chosen["variant_quantities"] = [{"variant_id": int(purchase.price_id), "quantity": purchase.quantity}]
        attributes = {
            "checkout_data": chosen,
            "product_options": {"redirect_url": purchase.success_url, "enabled_variants": [int(purchase.price_id)]},
            "checkout_options": {"skip_trial": purchase.is_subscription and not purchase.trial_days},
            "test_mode": self._is_test,
        }
        body = self._resource("checkouts", attributes, store=self._store_id, variant=purchase.price_id)
        made = (await self._send("POST", "/checkouts", body))["data"]
        return PlacedCheckout(str(made["id"]), made["attributes"]["url"])

    async def portal_url(self, customer_id: str, *, return_url: str) -> str:  # noqa: ARG002 - its portal has no way back
        found = await self._get(f"/customers/{customer_id}")
        url: str | None = (found["data"]["attributes"].get("urls") or {}).get("customer_portal")
        if url is None:
            raise ProviderRefused("Lemon Squeezy has a portal only for customers with a subscription")
        return url

    async def change_plan(self, subscription_id: str, *, price_id: str, quantity: int, key: str) -> None:  # noqa: ARG002 - setting twice is setting once
        wish = {"variant_id": int(price_id), "invoice_immediately": True}
        changed = await self._patch_subscription(subscription_id, wish)
        item = changed["attributes"].get("first_subscription_item") or {}
        if item and item.get("quantity") != quantity:
            body = self._resource("subscription-items", {"quantity": quantity}, resource_id=str(item["id"]))
            await self._send("PATCH", f"/subscription-items/{item['id']}", body)

    async def cancel(self, subscription_id: str, *, at_period_end: bool) -> None:
        if not at_period_end:
            raise ProviderRefused("Lemon Squeezy ends a subscription with its period only")
        await self._send("DELETE", f"/subscriptions/{subscription_id}")

    async def resume(self, subscription_id: str) -> None:
        await self._patch_subscription(subscription_id, {"cancelled": False})

    async def refund(self, payment_id: str, *, amount: Decimal | None, currency: str, key: str) -> Refunded:  # noqa: ARG002 - it takes no keys
        collection, named = _collection_of(payment_id)
        attributes = {} if amount is None else {"amount": to_minor(amount, currency)}
        body = self._resource(collection, attributes, resource_id=named)
        await self._send("POST", f"/{collection}/{named}/refund", body)
        return Refunded(payment_id)

    async def fetch(self, subject: Subject) -> Snapshot:
        try:
            if subject.about is About.SUBSCRIPTION:
                return await self._subscription(subject.id)
            if subject.about is About.INVOICE:
                invoice = (await self._get(f"/subscription-invoices/{subject.id}"))["data"]
                return await self._subscription(str(invoice["attributes"]["subscription_id"]))
            return await self._order(subject.id)
        except ProviderRefused as refused:
            if refused.is_missing:
                return Snapshot()
            raise

    async def fetch_payment(self, payment_id: str) -> Snapshot:
        collection, named = _collection_of(payment_id)
        return await self.fetch(Subject(About.ORDER if collection == "orders" else About.INVOICE, named))

    async def fetch_checkout(self, checkout_id: str, *, email: str, price_id: str, since: datetime) -> Snapshot:
        """A checkout does not tell what came of it, so the buyer's orders are looked through."""
        since -= CLOCK_SKEW
        wanted = {"filter[store_id]": self._store_id, "filter[user_email]": email, "page[size]": str(PAGE)}
        subscriptions = (await self._get("/subscriptions", wanted))["data"]
        orders = (await self._get("/orders", wanted))["data"]
        begun = [
            each
            for each in subscriptions
            if str(each["attributes"]["variant_id"]) == price_id and _is_since(each, since)
        ]
        bought = [each for each in map(_with_variant, orders) if each[0] == price_id and _is_since(each[1], since)]
        about = RemoteCheckout(checkout_id, "", is_over=False)
        if begun:
            found = await self._subscription(str(begun[0]["id"]))
            return Snapshot(found.subscriptions, found.payments, about)
        return Snapshot((), tuple(objects.read_order(each) for _, each in bought), about)

    async def changed_since(self, since: datetime, *, page: str | None) -> Changes:
        """By walking through all it has: it can filter by store, not by time."""
        collection, _, number = (page or f"{next(iter(_WALK))}:1").partition(":")
        wanted = {"filter[store_id]": self._store_id, "page[number]": number, "page[size]": str(PAGE)}
        found = await self._get(f"/{collection}", wanted)
        last_page = int(((found.get("meta") or {}).get("page") or {}).get("lastPage") or 1)
        all_there = read_changes(
            found["data"],
            lambda each: self._report(_WALK[collection], each),
            next_page=_page_after(collection, int(number), last_page),
        )
        return replace(
            all_there, reports=tuple(each for each in all_there.reports if _is_since(each.payload["data"], since))
        )

    def verify(self, body: bytes, headers: Mapping[str, str], *, now: datetime) -> None:  # noqa: ARG002 - its signatures have no time
        verify_lemon_squeezy(body, headers.get("x-signature"), secrets=self._secrets)

    def parse(self, payload: Mapping[str, Any], *, digest: str) -> Event:
        try:
            meta, found = payload["meta"], payload["data"]
            attributes = found["attributes"]
            return Event(
                id=f"{meta['event_name']}:{found['id']}:{digest}",
                type=str(meta["event_name"]),
                subject=objects.subject_of(meta["event_name"], found),
                occurred_at=objects.changed_at(found),
                reference=(meta.get("custom_data") or {}).get(objects.REFERENCE),
                foreign=self._foreign(meta, attributes),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InvalidWebhook(f"not an event of Lemon Squeezy: {error!r}") from error

    async def close(self) -> None:
        await self._http.aclose()

    def _foreign(self, meta: Mapping[str, Any], attributes: Mapping[str, Any]) -> str | None:
        is_test = bool(meta.get("test_mode") or attributes.get("test_mode"))
        if is_test is not self._is_test:
            return f"of {'test' if is_test else 'live'} mode, and this gateway is not"
        store_id = attributes.get("store_id")
        return f"of store {store_id}" if store_id is not None and str(store_id) != self._store_id else None

    def _report(self, event_name: str, found: Mapping[str, Any]) -> Report:
        is_test = bool(found["attributes"].get("test_mode"))
        payload = {"meta": {"event_name": event_name, "test_mode": is_test}, "data": found}
        return Report(self.parse(payload, digest=f"polled:{found['attributes'].get('updated_at')}"), payload)

    async def _subscription(self, subscription_id: str) -> Snapshot:
        found = (await self._get(f"/subscriptions/{subscription_id}"))["data"]
        invoices = await self._all("/subscription-invoices", {"filter[subscription_id]": subscription_id})
        return Snapshot((objects.read_subscription(found, invoices),), objects.read_invoices(found, invoices))

    async def _order(self, order_id: str) -> Snapshot:
        order = (await self._get(f"/orders/{order_id}"))["data"]
        begun = (await self._get("/subscriptions", {"filter[order_id]": order_id}))["data"]
        if not begun:
            return Snapshot(payments=(objects.read_order(order),))
        found = [await self._subscription(str(each["id"])) for each in begun]
        return Snapshot(
            tuple(each for snapshot in found for each in snapshot.subscriptions),
            tuple(each for snapshot in found for each in snapshot.payments),
        )

    async def _patch_subscription(self, subscription_id: str, wish: Mapping[str, Any]) -> dict[str, Any]:
        body = self._resource("subscriptions", wish, resource_id=subscription_id)
        changed: dict[str, Any] = (await self._send("PATCH", f"/subscriptions/{subscription_id}", body))["data"]
        return changed

    async def _all(self, path: str, wanted: Mapping[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        number, last_page = 1, 1
        while number <= last_page:
            page = await self._get(path, {**wanted, "page[number]": str(number), "page[size]": str(PAGE)})
            found += page["data"]
            last_page = int(((page.get("meta") or {}).get("page") or {}).get("lastPage") or 1)
            number += 1
        return found

    async def _get(self, path: str, wanted: Mapping[str, str] | None = None) -> dict[str, Any]:
        return await self._send("GET", path, wanted=wanted)

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, wanted: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Tried again after 429, and for reading also after failures of theirs."""
        for attempt in range(RETRIES + 1):
            try:
                answer = await self._http.request(
                    method,
                    path,
                    json=body,
                    params=wanted,
                    headers={"content-type": "application/vnd.api+json"} if body is not None else {},
                )
            except httpx.TransportError as error:
                if attempt == RETRIES or method != "GET":
                    raise ProviderUnavailable(f"Lemon Squeezy does not answer: {error!r}") from error
                answer = None
            if answer is not None and not _is_worth_retrying(answer, method):
                return _content(answer)
            if answer is not None and attempt == RETRIES:
                return _content(answer)
            await asyncio.sleep(_pause_seconds(answer, attempt))
        raise ProviderUnavailable("Lemon Squeezy does not answer")

    def _resource(
        self, kind: str, attributes: Mapping[str, Any], *, resource_id: str | None = None, **related: str
    ) -> dict[str, Any]:
        data: dict[str, Any] = {"type": kind, "attributes": dict(attributes)}
        if resource_id is not None:
            data["id"] = resource_id
        if related:
            data["relationships"] = {
                name: {"data": {"type": f"{name}s", "id": named}} for name, named in related.items()
            }
        return {"data": data}


def _is_worth_retrying(answer: httpx.Response, method: str) -> bool:
    return answer.status_code == 429 or (answer.status_code >= 500 and method == "GET")


def _pause_seconds(answer: httpx.Response | None, attempt: int) -> float:
    told = answer.headers.get("retry-after", "") if answer is not None else ""
    wished = float(told) if told.isascii() and told.isdigit() else FIRST_PAUSE_SECONDS * 2**attempt
    return min(wished, MAX_PAUSE_SECONDS)


def _content(answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code in (408, 409, 429) or answer.status_code >= 500:
        raise ProviderUnavailable(f"Lemon Squeezy answers {answer.status_code}")
    if answer.status_code in (401, 403):
        raise KeyRefused(f"Lemon Squeezy does not take this gateway's key: {_reason(answer)}")
    if answer.status_code >= 400:
        raise ProviderRefused(
            f"Lemon Squeezy answers {answer.status_code}: {_reason(answer)}", is_missing=answer.status_code == 404
        )
    if not answer.content:
        return {}
    try:
        content: dict[str, Any] = answer.json()
    except ValueError as error:
        raise ProviderUnavailable("Lemon Squeezy answers with what is not JSON") from error
    return content


def _reason(answer: httpx.Response) -> str:
    try:
        return "; ".join(str(each.get("detail") or each.get("title")) for each in answer.json()["errors"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer.text[:200]


def _collection_of(payment_id: str) -> tuple[str, str]:
    if payment_id.startswith(objects.ORDER_PREFIX):
        return "orders", payment_id.removeprefix(objects.ORDER_PREFIX)
    return "subscription-invoices", payment_id.removeprefix(objects.INVOICE_PREFIX)


def _is_since(found: Mapping[str, Any], since: datetime) -> bool:
    changed = objects.changed_at(found)
    return changed is None or changed >= since


def _with_variant(order: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    item = order["attributes"].get("first_order_item") or {}
    return str(item.get("variant_id") or ""), order


def _page_after(collection: str, number: int, last_page: int) -> str | None:
    if number < last_page:
        return f"{collection}:{number + 1}"
    following = list(_WALK)[list(_WALK).index(collection) + 1 :]
    return f"{following[0]}:1" if following else None
