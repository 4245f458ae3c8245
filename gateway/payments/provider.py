"""The protocol of a payment provider, in words that belong to none of them."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

from policies.billing.payments import ObjectRef, ProviderEvent, Snapshot
from policies.billing.price_checks import RemotePrice
from policies.billing.providers import ProviderTraits

CONNECT_TIMEOUT_SECONDS = 5.0
# The slowest calls of either provider create checkouts. Their own clients wait longer, but here a person waits.
TIMEOUT_SECONDS = 20.0


class ProviderUnavailable(Exception):  # noqa: N818 - a state of the world, answered with 503
    """The provider is out of reach, slow, overloaded or broken. It may or may not have done what it was asked."""


class CredentialsRejected(ProviderUnavailable):
    """The provider rejects the gateway's API key, so it did nothing. The call is worth repeating with another key."""


# For refusals whose reason names objects and requests of the operator's account.
REFUSED = "The payment provider has refused this; tell the operator the request id."


class ProviderRefused(Exception):  # noqa: N818 - the provider's answer
    """The provider refuses, and would refuse again.

    `is_missing`: the account has no such object. `is_customer_missing`: it has no longer, or in this mode not, the
    customer that the request names. `is_repeated`: it repeats what it answered an earlier request with the same key.
    `to_customer` is what customers are told, where the message is the operator's to read.
    """

    def __init__(
        self,
        message: str,
        *,
        to_customer: str | None = None,
        is_missing: bool = False,
        is_customer_missing: bool = False,
        is_repeated: bool = False,
    ) -> None:
        super().__init__(message)
        self.to_customer = to_customer or message
        self.is_missing = is_missing
        self.is_customer_missing = is_customer_missing
        self.is_repeated = is_repeated


class InvalidWebhook(Exception):  # noqa: N818 - an answer (400), not a fault
    """The message is unsigned, signed with an unknown secret, too old, or malformed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discount:
    """What a coupon takes off at a checkout: `percent_off`, or `amount_off` in `currency`.

    `terms_id` is the same wherever the terms are. `code` is of this checkout alone. `months`: for how long from the
    first payment on; None: off one payment. It is of no use after `expires_at`.
    """

    terms_id: str
    code: str
    name: str
    percent_off: Decimal | None
    amount_off: Decimal | None
    currency: str
    months: int | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class CheckoutRequest:
    """What a checkout sells. `reference` is the gateway's checkout id; the provider returns it with the payment.

    `is_subscription` False: paid once. `is_metered`: billed by reported usage, so it has no quantity.
    `customer_id` None: the provider creates a customer from the email address. `overage_price_id` is a metered price
    that the subscription has besides. Nobody pays after `expires_at`; None: as long as the provider takes it.
    """

    reference: str
    price_id: str
    is_subscription: bool
    quantity: int
    email: str
    customer_id: str | None
    success_url: str
    cancel_url: str
    trial_days: int = 0
    is_metered: bool = False
    overage_price_id: str | None = None
    expires_at: datetime | None = None
    discount: Discount | None = None


@dataclass(frozen=True, slots=True)
class CreatedCheckout:
    id: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCharge:
    """A payment by a saved card. `reference` is the gateway's checkout id, and `begun_at` before the first request."""

    reference: str
    customer_id: str
    card_id: str
    amount: Decimal
    currency: str
    description: str
    begun_at: datetime


@dataclass(frozen=True, slots=True)
class PriceChange:
    """What a subscription is to sell. The same `key` is executed once.

    `quantity` None: the price is metered, so it has none. `sold_prices` are those of plans: the subscription may sell
    other things too, which stay. `overage_price_id` is a metered price that it has to sell besides; `overage_prices`
    are those of all plans.
    """

    price_id: str
    quantity: int | None
    key: str
    sold_prices: Collection[str] = ()
    overage_price_id: str | None = None
    overage_prices: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """A change found by polling; its payload has the form of a webhook's."""

    event: ProviderEvent
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChangesPage:
    """`next_page` None: the last page. `unreadable` names each object that could not be parsed, with the reason."""

    changes: tuple[ChangeEvent, ...]
    next_page: str | None
    unreadable: tuple[str, ...] = ()


# What reading a message raises that is not as documented; OSError is a time that the C library cannot hold.
MALFORMED = (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, OSError)
# Ids and types of providers are far shorter, and longer ones fit no index.
MAX_ID_CHARACTERS = 500
# What the ids of objects consist of; they become a part of a URL.
_OBJECT_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_ID_CHARACTERS}}}")


def checked(event: ProviderEvent) -> ProviderEvent:
    """The event. Raises InvalidWebhook where an id or its type is none that a provider would use."""
    for name in (event.id, event.type):
        if not isinstance(name, str) or not 0 < len(name) <= MAX_ID_CHARACTERS:
            raise InvalidWebhook(f"id or type is not a text of up to {MAX_ID_CHARACTERS} characters")
    subject = event.subject
    if subject is not None and not (isinstance(subject.id, str) and _OBJECT_ID.fullmatch(subject.id)):
        raise InvalidWebhook("the id of its object is none")
    return event


def parse_changes(
    found: Iterable[Any], parse: Callable[[Mapping[str, Any]], ChangeEvent], *, next_page: str | None
) -> ChangesPage:
    """Parses each object on its own: one that is malformed hides none of the others."""
    changes, unreadable = [], []
    for each in found:
        try:
            changes.append(parse(each))
        except (InvalidWebhook, *MALFORMED) as error:
            object_id = each.get("id") if isinstance(each, Mapping) else each
            unreadable.append(f"{object_id}: {type(error).__name__}: {error}")
    return ChangesPage(tuple(changes), next_page, tuple(unreadable))


def has_valid_signature(signed: bytes, given: Sequence[str], *, secrets: Sequence[str]) -> bool:
    """Whether one of the given hex digests is the HMAC-SHA-256 of the bytes under one of the secrets.

    Compares all of them in constant time, so that the duration reveals nothing.
    """
    expected = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    matches = [hmac.compare_digest(own.encode(), theirs.encode()) for own in expected for theirs in given]
    return any(matches)


class Provider(Protocol):
    """Every method that calls the provider may raise ProviderUnavailable and ProviderRefused."""

    @property
    def name(self) -> str:
        """Its key in `policies.billing.providers.PROVIDERS`."""
        ...

    @property
    def traits(self) -> ProviderTraits: ...

    async def create_customer(self, user_id: str, *, email: str, name: str | None, replaces: str | None = None) -> str:
        """Returns the provider's id; the same one for the same user, unless it `replaces` one that is gone."""
        ...

    async def create_checkout(self, request: CheckoutRequest) -> CreatedCheckout:
        """Creates one checkout per reference."""
        ...

    async def expire_checkout(self, checkout_id: str) -> bool:
        """Nobody can pay at it from now on; False: somebody has. Of a provider with `traits.expires_checkouts`."""
        ...

    async def portal_url(self, customer_id: str, *, email: str | None, return_url: str) -> str:
        """Where the customer manages cards and subscriptions.

        `email` None: nobody has proven to be the owner of the account's address.
        """
        ...

    async def change_plan(self, subscription_id: str, change: PriceChange) -> str | None:
        """Takes effect once the difference is paid, which is prorated.

        Gives the page where the customer must confirm the payment first; None: it is paid.
        """
        ...

    async def cancel(self, subscription_id: str, *, at_period_end: bool) -> None: ...

    async def resume(self, subscription_id: str) -> None:
        """Undoes a cancellation at period end."""
        ...

    async def pause_payments(self, subscription_id: str) -> None:
        """Nothing is charged from now on, and what falls due meanwhile is not charged later."""
        ...

    async def resume_payments(self, subscription_id: str) -> None: ...

    async def refund(self, payment_id: str, *, amount: Decimal | None, currency: str, key: str) -> None:
        """Refunds the amount, or the whole payment. The same `key` is executed once."""
        ...

    async def fetch_price(self, price_id: str) -> RemotePrice | None:
        """What it charges; None for an unknown price."""
        ...

    async def missing_permissions(self) -> tuple[str, ...]:
        """What the API key must be allowed to do and is not, as the provider names it."""
        ...

    async def fetch(self, subject: ObjectRef) -> Snapshot:
        """The object's present state; an empty snapshot for an object that is gone or unknown."""
        ...

    async def fetch_payment(self, payment_id: str) -> Snapshot:
        """By `RemotePayment.id`."""
        ...

    async def fetch_checkout(self, checkout_id: str, *, email: str, price_id: str, since: datetime) -> Snapshot:
        """The outcome of a checkout, for a buyer who returns before the webhook arrives."""
        ...

    async def changed_since(self, since: datetime, *, page: str | None) -> ChangesPage:
        """What may have changed since then, page by page. May list more than changed, never less."""
        ...

    def verify(self, body: bytes, headers: Mapping[str, str], *, now: datetime) -> None:
        """Raises InvalidWebhook unless the provider signed exactly these bytes. Header names are lower-case."""
        ...

    def parse(self, payload: Mapping[str, Any], *, digest: str) -> ProviderEvent:
        """`digest` of the body replaces an event id where the provider sends none. Raises InvalidWebhook."""
        ...

    async def close(self) -> None: ...


class SchedulingProvider(Protocol):
    """A provider that changes plans with the period's end too: `traits.schedules_changes` is set.

    Both methods raise ProviderUnavailable and ProviderRefused.
    """

    async def schedule_change(self, subscription_id: str, change: PriceChange) -> None:
        """Takes effect with the next period, in place of what was scheduled."""
        ...

    async def unschedule_change(self, subscription_id: str) -> None: ...


class CardProvider(Protocol):
    """A provider that charges saved cards: `traits.charges_saved_cards` is set.

    Every method but the properties raises ProviderUnavailable and ProviderRefused.
    """

    @property
    def name(self) -> str: ...

    @property
    def traits(self) -> ProviderTraits: ...

    async def create_setup(self, customer_id: str, *, return_url: str, cancel_url: str, key: str) -> CreatedCheckout:
        """Where the customer saves a card."""
        ...

    async def charge_saved(self, charge: SavedCharge) -> Snapshot:
        """The payment. It is made once per reference; ProviderRefused: the bank declines it."""
        ...

    async def find_charge(self, charge: SavedCharge) -> Snapshot:
        """The payment of the reference; empty where none was made."""
        ...


class MeteredProvider(Protocol):
    """A provider that bills by reported usage: `traits.metered_usage` is set."""

    @property
    def name(self) -> str: ...

    @property
    def traits(self) -> ProviderTraits: ...

    async def report_usage(self, *, identifier: str, customer_id: str, value: int, at: datetime) -> None:
        """The provider counts one report per identifier. Raises ProviderUnavailable, ProviderRefused."""
        ...
