"""Calls Lemon Squeezy's JSON:API within its rate limit; `objects.py` and `events.py` parse what it sends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx

from gateway.payments.lemon_squeezy import objects
from gateway.payments.lemon_squeezy.events import EVENT_TYPES, SIGNATURE_FIELD, parse_event, verify_signature
from gateway.payments.provider import (
    CONNECT_TIMEOUT_SECONDS,
    REFUSED,
    TIMEOUT_SECONDS,
    ChangeEvent,
    ChangesPage,
    CheckoutRequest,
    CreatedCheckout,
    CredentialsRejected,
    Discount,
    PriceChange,
    ProviderRefused,
    ProviderUnavailable,
    parse_changes,
)
from policies.billing.money import to_minor
from policies.billing.payments import ObjectKind, ObjectRef, ProviderEvent, RemoteCheckout, Snapshot
from policies.billing.price_checks import RemotePrice
from policies.billing.providers import ProviderTraits

# https://docs.lemonsqueezy.com/api/getting-started/requests: 300 a minute, then 429.
RETRIES = 2
MAX_PAUSE_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.5
PAGE = 100
# Its timestamps are whole seconds of its own clock.
CLOCK_SKEW = timedelta(minutes=5)

# The collections that are polled for changes, and the event that an object of each stands for.
_POLLED = {
    "subscriptions": "subscription_updated",
    "subscription-invoices": "subscription_payment_success",
    "orders": "order_created",
}


class LemonSqueezy:
    """One store, in live or test mode; the API key does not tell which."""

    name = "lemon_squeezy"
    traits = ProviderTraits(
        signature_field=SIGNATURE_FIELD,
        event_types=frozenset(EVENT_TYPES),
        # It lists all objects whatever their age; older changes than Stripe's are not worth the pages.
        changes_kept_for=timedelta(days=29),
        buyer_enters_email=True,
        cancels_immediately=False,
    )

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

    async def create_customer(
        self,
        user_id: str,  # noqa: ARG002 - it has no field for the user's id
        *,
        email: str,
        name: str | None,
        replaces: str | None = None,  # noqa: ARG002 - the address finds whom the store has
    ) -> str:
        """A store has one customer per address, so a repeated call finds the existing one."""
        known = await self._get("/customers", {"filter[store_id]": self._store_id, "filter[email]": email})
        if known["data"]:
            return str(known["data"][0]["id"])
        body = self._resource("customers", {"name": name or email, "email": email}, store=self._store_id)
        return str((await self._send("POST", "/customers", body))["data"]["id"])

    async def create_checkout(self, request: CheckoutRequest) -> CreatedCheckout:
        data: dict[str, Any] = {"email": request.email, "custom": {objects.REFERENCE: request.reference}}
        if request.discount is not None:
            data["discount_code"] = await self._ensure_discount(request.discount, variant=request.price_id)
        if request.quantity > 1:
            data["variant_quantities"] = [{"variant_id": int(request.price_id), "quantity": request.quantity}]
        attributes = {
            "checkout_data": data,
            "product_options": {"redirect_url": request.success_url, "enabled_variants": [int(request.price_id)]},
            "checkout_options": {"skip_trial": request.is_subscription and not request.trial_days},
            "test_mode": self._is_test,
            **({"expires_at": objects.written(request.expires_at)} if request.expires_at is not None else {}),
        }
        body = self._resource("checkouts", attributes, store=self._store_id, variant=request.price_id)
        created = (await self._send("POST", "/checkouts", body))["data"]
        return CreatedCheckout(str(created["id"]), created["attributes"]["url"])

    async def expire_checkout(self, checkout_id: str) -> bool:  # noqa: ARG002 - refused whichever it is
        raise ProviderRefused("Lemon Squeezy ends no checkout before its time")

    async def _ensure_discount(self, discount: Discount, *, variant: str) -> str:
        """Gives its code, which is of this checkout alone: where it is taken, an earlier attempt has made it."""
        code, attributes = objects.write_discount(discount)
        body = self._resource("discounts", {**attributes, "test_mode": self._is_test}, store=self._store_id)
        body["data"]["relationships"]["variants"] = {"data": [{"type": "variants", "id": variant}]}
        try:
            await self._send("POST", "/discounts", body)
        except ProviderRefused as refused:
            if "already been taken" not in str(refused):
                raise
        return code

    async def portal_url(self, customer_id: str, *, email: str | None, return_url: str) -> str:  # noqa: ARG002 - its portal does not return
        """For the owner of the customer's address: the store has one customer per address, whoever enters it."""
        customer = (await self._get(f"/customers/{customer_id}"))["data"]["attributes"]
        if email is None or customer["email"].casefold() != email.casefold():
            raise ProviderRefused(
                "Lemon Squeezy knows customers by their address, and its portal is for the owner: verify the address of"
                " your account, or follow the link in the mails that came with the purchase"
            )
        url: str | None = (customer.get("urls") or {}).get("customer_portal")
        if url is None:
            raise ProviderRefused("Lemon Squeezy has a portal only for customers with a subscription")
        return url

    async def change_plan(self, subscription_id: str, change: PriceChange) -> str | None:
        variant = {"variant_id": int(change.price_id), "invoice_immediately": True}
        changed = await self._patch_subscription(subscription_id, variant)
        item, quantity = changed["attributes"].get("first_subscription_item") or {}, change.quantity
        if item and quantity is not None and item.get("quantity") != quantity:
            seats = {"quantity": quantity, "invoice_immediately": True}
            body = self._resource("subscription-items", seats, resource_id=str(item["id"]))
            await self._send("PATCH", f"/subscription-items/{item['id']}", body)
        return None

    async def cancel(self, subscription_id: str, *, at_period_end: bool) -> None:
        if not at_period_end:
            raise ProviderRefused("Lemon Squeezy ends a subscription with its period only")
        await self._send("DELETE", f"/subscriptions/{subscription_id}")

    async def resume(self, subscription_id: str) -> None:
        await self._patch_subscription(subscription_id, {"cancelled": False})

    async def pause_payments(self, subscription_id: str) -> None:
        await self._patch_subscription(subscription_id, {"pause": {"mode": "void"}})

    async def resume_payments(self, subscription_id: str) -> None:
        await self._patch_subscription(subscription_id, {"pause": None})

    async def refund(self, payment_id: str, *, amount: Decimal | None, currency: str, key: str) -> None:  # noqa: ARG002 - it has no idempotency keys
        collection, object_id = _collection_of(payment_id)
        attributes = {} if amount is None else {"amount": to_minor(amount, currency)}
        body = self._resource(collection, attributes, resource_id=object_id)
        await self._send("POST", f"/{collection}/{object_id}/refund", body)

    async def fetch_price(self, price_id: str) -> RemotePrice | None:
        found = (await self._get("/prices", {"filter[variant_id]": price_id}))["data"]
        return objects.read_price(found[0]["attributes"]) if found else None

    async def missing_permissions(self) -> tuple[str, ...]:
        return ()  # its keys may do everything

    async def fetch(self, subject: ObjectRef) -> Snapshot:
        try:
            if subject.kind is ObjectKind.SUBSCRIPTION:
                return await self._subscription(subject.id)
            if subject.kind is ObjectKind.INVOICE:
                invoice = (await self._get(f"/subscription-invoices/{subject.id}"))["data"]
                return await self._subscription(str(invoice["attributes"]["subscription_id"]))
            return await self._order(subject.id)
        except ProviderRefused as refused:
            if refused.is_missing:
                return Snapshot()
            raise

    async def fetch_payment(self, payment_id: str) -> Snapshot:
        collection, object_id = _collection_of(payment_id)
        return await self.fetch(
            ObjectRef(ObjectKind.ORDER if collection == "orders" else ObjectKind.INVOICE, object_id)
        )

    async def fetch_checkout(self, checkout_id: str, *, email: str, price_id: str, since: datetime) -> Snapshot:
        """A checkout has no outcome here, so this searches the buyer's subscriptions and orders."""
        since -= CLOCK_SKEW
        params = {"filter[store_id]": self._store_id, "filter[user_email]": email, "page[size]": str(PAGE)}
        subscriptions = (await self._get("/subscriptions", params))["data"]
        orders = (await self._get("/orders", params))["data"]
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

    async def changed_since(self, since: datetime, *, page: str | None) -> ChangesPage:
        """Lists all objects of the store, since lists cannot be filtered by time."""
        collection, _, number = (page or f"{next(iter(_POLLED))}:1").partition(":")
        params = {"filter[store_id]": self._store_id, "page[number]": number, "page[size]": str(PAGE)}
        found = await self._get(f"/{collection}", params)
        last_page = int(((found.get("meta") or {}).get("page") or {}).get("lastPage") or 1)
        changes = parse_changes(
            found["data"],
            lambda each: self._change_event(_POLLED[collection], each),
            next_page=_page_after(collection, int(number), last_page),
        )
        recent = tuple(each for each in changes.changes if _is_since(each.payload["data"], since))
        return replace(changes, changes=recent)

    def verify(self, body: bytes, headers: Mapping[str, str], *, now: datetime) -> None:  # noqa: ARG002 - its signatures have no timestamp
        verify_signature(body, headers.get(SIGNATURE_FIELD), secrets=self._secrets)

    def parse(self, payload: Mapping[str, Any], *, digest: str) -> ProviderEvent:
        return parse_event(payload, digest=digest, store_id=self._store_id, is_test=self._is_test)

    async def close(self) -> None:
        await self._http.aclose()

    def _change_event(self, event_name: str, found: Mapping[str, Any]) -> ChangeEvent:
        is_test = bool(found["attributes"].get("test_mode"))
        payload = {"meta": {"event_name": event_name, "test_mode": is_test}, "data": found}
        return ChangeEvent(self.parse(payload, digest=f"polled:{found['attributes'].get('updated_at')}"), payload)

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

    async def _patch_subscription(self, subscription_id: str, change: Mapping[str, Any]) -> dict[str, Any]:
        body = self._resource("subscriptions", change, resource_id=subscription_id)
        changed: dict[str, Any] = (await self._send("PATCH", f"/subscriptions/{subscription_id}", body))["data"]
        return changed

    async def _all(self, path: str, params: Mapping[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        number, last_page = 1, 1
        while number <= last_page:
            page = await self._get(path, {**params, "page[number]": str(number), "page[size]": str(PAGE)})
            found += page["data"]
            last_page = int(((page.get("meta") or {}).get("page") or {}).get("lastPage") or 1)
            number += 1
        return found

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        return await self._send("GET", path, params=params)

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, params: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Retries after 429, and reads also after server errors."""
        for attempt in range(RETRIES + 1):
            try:
                response = await self._http.request(
                    method,
                    path,
                    json=body,
                    params=params,
                    headers={"content-type": "application/vnd.api+json"} if body is not None else {},
                )
            except httpx.TransportError as error:
                if attempt == RETRIES or method != "GET":
                    raise ProviderUnavailable(f"Lemon Squeezy does not answer: {error!r}") from error
                response = None
            if response is not None and not _is_worth_retrying(response, method):
                return _content(response)
            if response is not None and attempt == RETRIES:
                return _content(response)
            await asyncio.sleep(_pause_seconds(response, attempt))
        raise ProviderUnavailable("Lemon Squeezy does not answer")

    def _resource(
        self, kind: str, attributes: Mapping[str, Any], *, resource_id: str | None = None, **related: str
    ) -> dict[str, Any]:
        data: dict[str, Any] = {"type": kind, "attributes": dict(attributes)}
        if resource_id is not None:
            data["id"] = resource_id
        if related:
            data["relationships"] = {
                name: {"data": {"type": f"{name}s", "id": object_id}} for name, object_id in related.items()
            }
        return {"data": data}


def _is_worth_retrying(response: httpx.Response, method: str) -> bool:
    return response.status_code == 429 or (response.status_code >= 500 and method == "GET")


def _pause_seconds(response: httpx.Response | None, attempt: int) -> float:
    retry_after = response.headers.get("retry-after", "") if response is not None else ""
    is_number = retry_after.isascii() and retry_after.isdigit()
    return min(float(retry_after) if is_number else FIRST_PAUSE_SECONDS * 2**attempt, MAX_PAUSE_SECONDS)


def _content(response: httpx.Response) -> dict[str, Any]:
    if response.status_code in (408, 409, 429) or response.status_code >= 500:
        raise ProviderUnavailable(f"Lemon Squeezy answers {response.status_code}")
    if response.status_code in (401, 403):
        raise CredentialsRejected(f"Lemon Squeezy rejects this gateway's key: {_reason(response)}")
    if response.status_code >= 400:
        raise ProviderRefused(
            f"Lemon Squeezy answers {response.status_code}: {_reason(response)}",
            to_customer=REFUSED,
            is_missing=response.status_code == 404,
        )
    if not response.content:
        return {}
    try:
        content: dict[str, Any] = response.json()
    except ValueError as error:
        raise ProviderUnavailable("Lemon Squeezy sent a response that is not JSON") from error
    return content


def _reason(response: httpx.Response) -> str:
    try:
        return "; ".join(str(each.get("detail") or each.get("title")) for each in response.json()["errors"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return response.text[:200]


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
    following = list(_POLLED)[list(_POLLED).index(collection) + 1 :]
    return f"{following[0]}:1" if following else None
