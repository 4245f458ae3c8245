"""Who signed a webhook: an HMAC over the very bytes that came, compared in constant time, under any secret in force."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime

from gateway.payments.provider import InvalidWebhook

# https://docs.stripe.com/webhooks#replay-attacks: what Stripe's own libraries allow.
TOLERANCE_SECONDS = 300


def verify_stripe(body: bytes, header: str | None, *, secrets: Sequence[str], now: datetime) -> None:
    """`Stripe-Signature: t=…,v1=…[,v1=…]` signs `t.body`. Raises InvalidWebhook.

    https://docs.stripe.com/webhooks#verify-manually; several v1 come while Stripe rolls a secret.
    """
    signed_at, signatures = _stripe_fields(header)
    if abs(now.timestamp() - signed_at) > TOLERANCE_SECONDS:
        raise InvalidWebhook(f"signed more than {TOLERANCE_SECONDS} seconds from now")
    expected = [_digest(secret, f"{signed_at}.".encode() + body) for secret in secrets]
    if not _any_equal(expected, signatures):
        raise InvalidWebhook("no signature of it is made with a secret of ours")


def verify_lemon_squeezy(body: bytes, header: str | None, *, secrets: Sequence[str]) -> None:
    """`X-Signature` is the digest of the body in hex. Raises InvalidWebhook.

    https://docs.lemonsqueezy.com/help/webhooks/signing-requests
    """
    if not header:
        raise InvalidWebhook("X-Signature is missing")
    if not _any_equal([_digest(secret, body) for secret in secrets], [header.strip().lower()]):
        raise InvalidWebhook("X-Signature is not made with a secret of ours")


def _stripe_fields(header: str | None) -> tuple[int, list[str]]:
    fields = [part.strip().partition("=") for part in (header or "").split(",")]
    times = [text for name, _, text in fields if name == "t"]
    signatures = [text for name, _, text in fields if name == "v1"]
    if len(times) != 1 or not (times[0].isascii() and times[0].isdigit() and len(times[0]) <= 12) or not signatures:
        raise InvalidWebhook("Stripe-Signature must be t=…,v1=…")
    return int(times[0]), signatures


def _digest(secret: str, signed: bytes) -> str:
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def _any_equal(expected: Sequence[str], given: Sequence[str]) -> bool:
    """Looks at all of them, so that the time it takes says nothing."""
    matches = [hmac.compare_digest(ours.encode(), theirs.encode()) for ours in expected for theirs in given]
    return any(matches)
