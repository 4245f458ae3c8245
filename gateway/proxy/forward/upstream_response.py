"""What the head of an upstream's answer says to the gateway, and what of it goes on to the client.

Upstreams repeat their heads, so it is made out once for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

import structlog

from gateway.http.fields import HeaderBlock, header_block
from gateway.upstream.errors import invalid
from gateway.upstream.response_head import Head, Header

MAX_DIGITS = 12  # a report of more credits or tokens than this is a bug of the upstream's, not a bill
MAX_COST_USD = 1_000_000  # numeric(12,6)
# The upstream's word to the gateway, what only the gateway may say of limits and credits, and what the upstream says to
# its next hop, which is us.
DROPPED = frozenset(
    {
        b"gateway-credits",
        b"gateway-tokens",
        b"gateway-cost-usd",
        b"gateway-mode",
        b"idempotency-replayed",
        b"ratelimit",
        b"ratelimit-policy",
        b"ratelimit-limit",
        b"ratelimit-remaining",
        b"ratelimit-reset",
        b"x-credits-remaining",
        b"x-credits-charged",
        b"x-request-id",
        b"proxy-authenticate",
        b"proxy-authentication-info",
    }
)
_log = structlog.get_logger()


class Reported(NamedTuple):
    """What the upstream says of a call in Gateway-Credits, -Tokens and -Cost-Usd; None where it does not."""

    credits: int | None = None
    tokens: int | None = None
    cost_usd: Decimal | None = None


NOT_REPORTED = Reported()


class Answer(NamedTuple):
    """`passed` are the fields that go on, less Content-Length, which is that of the body sent."""

    reported: Reported
    passed: HeaderBlock
    content_type: bytes
    content_encoding: bytes


def answer_of(head: Head) -> Answer:
    """Reads a head, or remembers having read it. Raises UpstreamError for fields that could be read as others."""
    if isinstance(head.note, Answer):
        return head.note
    fields = dict(head.headers)
    answer = Answer(
        reported(fields),
        passed_block(head.headers),
        fields.get(b"content-type", b""),
        fields.get(b"content-encoding", b""),
    )
    head.note = answer
    return answer


def passed_block(headers: Sequence[Header]) -> HeaderBlock:
    """The fields that go on, rendered; raises UpstreamError for what could be read as more than these fields."""
    passed = [b"%b: %b\r\n" % field for field in headers if field[0] not in DROPPED and field[0] != b"content-length"]
    try:
        return header_block(b"".join(passed))
    except ValueError as error:
        raise invalid("the response holds a header field that is none") from error


def reported(fields: dict[bytes, bytes]) -> Reported:
    """Reads the report; what is not a non-negative number is ignored, with a warning."""
    return Reported(
        _whole(fields.get(b"gateway-credits")),
        _whole(fields.get(b"gateway-tokens")),
        _money(fields.get(b"gateway-cost-usd")),
    )


def _whole(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > MAX_DIGITS:
        _log.warning("the upstream's report is not a whole number", value=value.decode("latin-1")[:40])
        return None
    return int(value)


def _money(value: bytes | None) -> Decimal | None:
    if value is None:
        return None
    try:
        amount = Decimal(value.decode("ascii"))
    except (InvalidOperation, UnicodeDecodeError):
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 <= amount < MAX_COST_USD:
        _log.warning("the upstream's report is not an amount", value=value.decode("latin-1")[:40])
        return None
    return amount
