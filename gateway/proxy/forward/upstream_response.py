"""The head of an upstream's response: what it reports to the gateway, and which fields the client gets.

Upstreams repeat their heads, so each is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

import structlog

from gateway.http.fields import PROXY_AUTHENTICATION, Header, HeaderBlock, header_block
from gateway.upstream.errors import invalid
from gateway.upstream.response_head import ResponseHead

MAX_DIGITS = 12  # more credits or tokens are a bug of the upstream
MAX_COST_USD = 1_000_000  # numeric(12,6)
# Fields between the upstream and the gateway, and fields that only the gateway may set.
DROPPED = PROXY_AUTHENTICATION | frozenset(
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
    }
)
_log = structlog.get_logger()


class ReportedUsage(NamedTuple):
    """Gateway-Credits, Gateway-Tokens and Gateway-Cost-Usd of a response; None for each that is absent."""

    credits: int | None = None
    tokens: int | None = None
    cost_usd: Decimal | None = None


NOT_REPORTED = ReportedUsage()


class UpstreamResponse(NamedTuple):
    """`fields` are those that the client gets, without Content-Length, which is generated."""

    reported: ReportedUsage
    fields: HeaderBlock
    content_type: bytes
    content_encoding: bytes


def read_head(head: ResponseHead) -> UpstreamResponse:
    """Reads a head, once for each that the upstream repeats. Raises UpstreamError for an ambiguous field."""
    if isinstance(head.consumer_value, UpstreamResponse):
        return head.consumer_value
    fields = dict(head.headers)
    response = UpstreamResponse(
        read_report(fields),
        render_fields(head.headers),
        fields.get(b"content-type", b""),
        fields.get(b"content-encoding", b""),
    )
    head.consumer_value = response
    return response


def render_fields(headers: Sequence[Header]) -> HeaderBlock:
    """The fields that the client gets; raises UpstreamError for one that could be read as several."""
    fields = [b"%b: %b\r\n" % field for field in headers if field[0] not in DROPPED and field[0] != b"content-length"]
    try:
        return header_block(b"".join(fields))
    except ValueError as error:
        raise invalid("the response holds an invalid header field") from error


def read_report(fields: dict[bytes, bytes]) -> ReportedUsage:
    """Reads the report. A field that is no non-negative number is ignored, with a warning."""
    return ReportedUsage(
        _count(fields.get(b"gateway-credits")),
        _count(fields.get(b"gateway-tokens")),
        _money(fields.get(b"gateway-cost-usd")),
    )


def _count(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > MAX_DIGITS:
        _log.warning("upstream_report_invalid", expected="whole number", value=value.decode("latin-1")[:40])
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
        _log.warning("upstream_report_invalid", expected="amount", value=value.decode("latin-1")[:40])
        return None
    return amount
