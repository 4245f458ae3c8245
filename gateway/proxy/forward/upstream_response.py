"""The head of an upstream's response: what it reports to the gateway, and which fields the client gets.

Upstreams repeat their heads, so each is read once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

import structlog

from gateway.http.fields import PROXY_AUTHENTICATION, Header, HeaderBlock, header_block
from gateway.proxy.forward import redirects
from gateway.upstream.errors import invalid
from gateway.upstream.response_head import ResponseHead

MAX_DIGITS = 12  # more credits or tokens are a bug of the upstream
MAX_COST_USD = 1_000_000  # numeric(12,6)
MIN_EXPONENT = -30  # of a cost; a fraction of a smaller one has millions of digits
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
_INPUT_TOKENS = b"x-amzn-bedrock-input-token-count"
# What Bedrock says of InvokeModel, whatever the model's maker says in the body; named as in the last chunk of a stream.
_TOKEN_COUNTS = {
    "inputTokenCount": _INPUT_TOKENS,
    "outputTokenCount": b"x-amzn-bedrock-output-token-count",
    "cacheReadInputTokenCount": b"x-amzn-bedrock-cache-read-input-token-count",
    "cacheWriteInputTokenCount": b"x-amzn-bedrock-cache-write-input-token-count",
}
REQUEST_ID_FIELDS = (b"x-request-id", b"request-id", b"x-amzn-requestid")
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_log = structlog.get_logger()


class ReportedUsage(NamedTuple):
    """Gateway-Credits, Gateway-Tokens and Gateway-Cost-Usd of a response; None for each that is absent."""

    credits: int | None = None
    tokens: int | None = None
    cost_usd: Decimal | None = None


NOT_REPORTED = ReportedUsage()


class ResponsePolicy(NamedTuple):
    """What is believed of an upstream's responses, and which of their fields the client does not get.

    `dropped_prefixes` are beginnings of names.
    """

    believes_reports: bool = False
    dropped: frozenset[bytes] = frozenset()
    dropped_prefixes: tuple[bytes, ...] = ()

    def passed(self, headers: Sequence[Header]) -> Sequence[Header]:
        """The fields of a response without those that are dropped."""
        if not self.dropped and not self.dropped_prefixes:
            return headers
        dropped, prefixes = self.dropped, self.dropped_prefixes
        return [field for field in headers if field[0] not in dropped and not field[0].startswith(prefixes)]


PASS_ALL = ResponsePolicy()


def response_policy(names: Iterable[str], *, believes_reports: bool) -> ResponsePolicy:
    """The policy that drops these fields; a name that ends in `*` stands for all that begin so."""
    patterns = [name.lower().encode() for name in names]
    exact = frozenset(name for name in patterns if not name.endswith(b"*"))
    prefixes = tuple(name[:-1] for name in patterns if name.endswith(b"*"))
    return ResponsePolicy(believes_reports, exact, prefixes)


class UpstreamResponse(NamedTuple):
    """`fields` are those that the client gets, without Content-Length, which is generated. `request_id` is the
    upstream's own, None where it tells none. `leads_elsewhere` is whether a field names another resource.
    `token_counts` are those that Bedrock tells in fields.
    """

    reported: ReportedUsage
    fields: HeaderBlock
    content_type: bytes
    content_encoding: bytes
    request_id: str | None = None
    leads_elsewhere: bool = False
    token_counts: Mapping[str, int] | None = None


def read_head(head: ResponseHead, policy: ResponsePolicy = PASS_ALL) -> UpstreamResponse:
    """Reads a head, once for each that the upstream repeats. Raises UpstreamError for an ambiguous field."""
    if isinstance(head.consumer_value, UpstreamResponse):
        return head.consumer_value
    fields = dict(head.headers)
    response = UpstreamResponse(
        read_report(head.headers) if policy.believes_reports else NOT_REPORTED,
        render_fields(policy.passed(head.headers)),
        fields.get(b"content-type", b""),
        fields.get(b"content-encoding", b""),
        _request_id(fields),
        not fields.keys().isdisjoint(redirects.FIELDS),
        _token_counts(fields) if _INPUT_TOKENS in fields else None,
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


def read_report(headers: Sequence[Header]) -> ReportedUsage:
    """Reads the report. A field that is no non-negative number is ignored, as is one given twice, with a warning."""
    return ReportedUsage(
        _count(_only(headers, b"gateway-credits")),
        _count(_only(headers, b"gateway-tokens")),
        _money(_only(headers, b"gateway-cost-usd")),
    )


def _only(headers: Sequence[Header], name: bytes) -> bytes | None:
    values = {value for known, value in headers if known == name}
    if len(values) > 1:
        _log.warning("upstream_report_invalid", expected="one value", field=name.decode())
        return None
    return next(iter(values), None)


def _request_id(fields: dict[bytes, bytes]) -> str | None:
    """The id by which the upstream's operator finds the call: the field of OpenAI, of Anthropic, or of AWS."""
    for name in REQUEST_ID_FIELDS:
        value = fields.get(name)
        if value is not None and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return None


def _token_counts(fields: Mapping[bytes, bytes]) -> Mapping[str, int]:
    counts = {name: _count(fields.get(field)) for name, field in _TOKEN_COUNTS.items()}
    return {name: count for name, count in counts.items() if count is not None}


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
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, str) or exponent < MIN_EXPONENT or not 0 <= amount < MAX_COST_USD:
        _log.warning("upstream_report_invalid", expected="amount", value=value.decode("latin-1")[:40])
        return None
    return amount
