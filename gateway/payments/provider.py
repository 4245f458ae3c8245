"""What every payment provider can do for us, in words that are none of theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

from policies.billing.payments import Event, Snapshot, Subject

CONNECT_TIMEOUT_SECONDS = 5.0
# The slowest calls of either provider create checkouts; their own clients wait longer, ours has a person in front.
TIMEOUT_SECONDS = 20.0


class ProviderUnavailable(Exception):  # noqa: N818 - a state of the world, answered with 503
    """The provider is out of reach, slow, overloaded or broken. What was asked may or may not have been done."""


class KeyRefused(ProviderUnavailable):
    """The provider does not take our key, so nothing was done; under another key, what waited goes on."""


class ProviderRefused(Exception):  # noqa: N818 - an answer of theirs
    """The provider says no, and would again. `is_missing`: there is no such object, or it is not ours."""

    def __init__(self, message: str, *, is_missing: bool = False) -> None:
        super().__init__(message)
        self.is_missing = is_missing


class InvalidWebhook(Exception):  # noqa: N818 - an answer (400), not a fault
    """Not signed by the provider with a secret of ours, too old, or not a message at all."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """What a checkout is to sell. `reference` is our checkout's id; it comes back with what is paid.

    `is_subscription` False: paid once. `customer_id` None: the provider makes one of the email address.
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


@dataclass(frozen=True, slots=True)
class PlacedCheckout:
    id: str
    url: str


@dataclass(frozen=True, slots=True)
class Refunded:
    """`payment_id` is the payment to fetch again."""

    payment_id: str


@dataclass(frozen=True, slots=True)
class Report:
    """A message that was polled: its payload is as a webhook's would be."""

    event: Event
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Changes:
    """A page of what changed; `next_page` None on the last one. `unread` says of what makes no sense why."""

    reports: tuple[Report, ...]
    next_page: str | None
    unread: tuple[str, ...] = ()


def read_changes(
    found: Iterable[Any], read: Callable[[Mapping[str, Any]], Report], *, next_page: str | None
) -> Changes:
    """A page of objects read one by one: an odd one keeps none of the others from being heard."""
    reports, unread = [], []
    for each in found:
        try:
            reports.append(read(each))
        except (InvalidWebhook, KeyError, TypeError, AttributeError, ValueError) as error:
            named = each.get("id") if isinstance(each, Mapping) else each
            unread.append(f"{named}: {type(error).__name__}: {error}")
    return Changes(tuple(reports), next_page, tuple(unread))


class Provider(Protocol):
    """Any method that asks the provider may raise ProviderUnavailable and ProviderRefused."""

    @property
    def name(self) -> str:
        """`stripe` or `lemon_squeezy`."""
        ...

    async def create_customer(self, user_id: str, *, email: str, name: str | None) -> str:
        """The provider's id; the same one if asked again for the same user."""
        ...

    async def create_checkout(self, purchase: Purchase) -> PlacedCheckout:
        """Asked twice for one reference, one checkout."""
        ...

    async def portal_url(self, customer_id: str, *, return_url: str) -> str:
        """Where the customer manages cards and subscriptions."""
        ...

    async def change_plan(self, subscription_id: str, *, price_id: str, quantity: int, key: str) -> None:
        """From now on, the difference prorated. `key` names the wish, so that it is granted once."""
        ...

    async def cancel(self, subscription_id: str, *, at_period_end: bool) -> None: ...

    async def resume(self, subscription_id: str) -> None:
        """Takes back that it ends with its period."""
        ...

    async def refund(self, payment_id: str, *, amount: Decimal | None, currency: str, key: str) -> Refunded:
        """All of the payment, or this much. `key` names the wish, so that it is granted once."""
        ...

    async def fetch(self, subject: Subject) -> Snapshot:
        """What holds now. An object that is gone or was never ours gives an empty snapshot."""
        ...

    async def fetch_payment(self, payment_id: str) -> Snapshot:
        """By the id that `RemotePayment` has."""
        ...

    async def fetch_checkout(self, checkout_id: str, *, email: str, price_id: str, since: datetime) -> Snapshot:
        """What came of a checkout: for the client who is back before the webhook."""
        ...

    async def changed_since(self, since: datetime, *, page: str | None) -> Changes:
        """What may have changed since then, a page at a time. May tell more than changed, never less."""
        ...

    def verify(self, body: bytes, headers: Mapping[str, str], *, now: datetime) -> None:
        """Raises InvalidWebhook unless the provider has signed these very bytes. Header names are lower-case."""
        ...

    def parse(self, payload: Mapping[str, Any], *, digest: str) -> Event:
        """`digest` of the body stands in for an id where the provider gives none. Raises InvalidWebhook."""
        ...

    async def close(self) -> None: ...


class MeterEvents(Protocol):
    """A provider that is told of usage as it comes."""

    async def report_usage(
        self, event_name: str, *, identifier: str, customer_id: str, value: int, at: datetime
    ) -> None:
        """Counted once per identifier within a day. Raises ProviderUnavailable, ProviderRefused."""
        ...
