"""How calls of Stripe's SDK end, and the keys under which Stripe executes a request once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import stripe

from gateway.payments.provider import (
    CONNECT_TIMEOUT_SECONDS,
    REFUSED,
    TIMEOUT_SECONDS,
    CredentialsRejected,
    ProviderRefused,
    ProviderUnavailable,
)

# More refusals of one request within the day that Stripe stores them are the last word.
ATTEMPTS = 20

_UNAVAILABLE = (stripe.APIConnectionError, stripe.RateLimitError)
_REJECTED = (stripe.AuthenticationError, stripe.PermissionError)


class FailureRepeated(ProviderUnavailable):
    """Stripe repeats how it failed at an earlier request under the same key, which it does for a day."""


async def response(call: Awaitable[Any]) -> dict[str, Any]:
    """The response as plain values. Raises CredentialsRejected, ProviderUnavailable, ProviderRefused."""
    try:
        found: dict[str, Any] = (await call).to_dict()
    except stripe.StripeError as error:
        status = error.http_status or 0
        if isinstance(error, _REJECTED):
            raise CredentialsRejected(f"Stripe rejects this gateway's key: {error}") from error
        if status >= 500 and _is_repeated(error):
            raise FailureRepeated(f"Stripe does not answer: {error}") from error
        if isinstance(error, _UNAVAILABLE) or status >= 500 or status in (409, 429):
            raise ProviderUnavailable(f"Stripe does not answer: {error}") from error
        raise ProviderRefused(
            f"Stripe refuses: {error}",
            to_customer=_to_customer(error),
            is_missing=status == 404,
            is_customer_missing=_names_no_customer(error),
            is_repeated=_is_repeated(error),
        ) from error
    return found


async def executed_once(
    call: Callable[[Any], Awaitable[Any]], *key: str, or_failed_once: bool = False
) -> dict[str, Any]:
    """The response to a request that Stripe executes once.

    A refusal that Stripe only repeats is asked for again under the next of a row of keys, so that a repeated request
    finds whichever was executed. With `or_failed_once`, so is a failure: what failed may have been executed, so this
    is for what may be there twice.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return await response(call(idempotency_key(*key, *([str(attempt)] if attempt > 1 else []))))
        except ProviderRefused as refused:
            if not refused.is_repeated:
                raise
        except FailureRepeated:
            if not or_failed_once:
                raise
    return await response(call(idempotency_key(*key, str(ATTEMPTS))))


def idempotency_key(*parts: str) -> Any:
    """Stripe answers a repeated request as it did the first time, a refused one too."""
    return {"idempotency_key": "-".join(("gateway", *parts))[:255]}


def timeout() -> Any:
    from httpx import Timeout

    return Timeout(TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)


def _to_customer(error: stripe.StripeError) -> str:
    """Stripe writes messages about cards for their holders; others name its objects."""
    return error.user_message or REFUSED if isinstance(error, stripe.CardError) else REFUSED


def _is_repeated(error: stripe.StripeError) -> bool:
    """Whether this is the stored answer to an earlier request under the same key."""
    headers = {str(name).lower(): value for name, value in dict(error.headers or {}).items()}
    return headers.get("idempotent-replayed") == "true"


def _names_no_customer(error: stripe.StripeError) -> bool:
    """Also where the customer is of the other mode, test or live."""
    return error.code == "resource_missing" and getattr(error, "param", None) == "customer"
