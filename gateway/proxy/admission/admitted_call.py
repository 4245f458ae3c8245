"""What admission decides on and what it gives: a request, and an admitted call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from gateway.meter.admissions import Admission
from gateway.meter.idempotency import IdempotencyClaim
from gateway.proxy.admission.caller import Caller
from gateway.proxy.admission.idempotency import claim_of
from gateway.proxy.metering.priced_body import NOTHING_ASKED, Asked
from gateway.proxy.request.body import WholeBody
from gateway.proxy.request.inbound import MAX_TEXT_LENGTH, Inbound
from gateway.proxy.router import RouteMatch
from policies.model import Plan, Route
from policies.pricing.quotes import Quote
from policies.usage import records


class AdmissionRequest(NamedTuple):
    """A request that is to be admitted.

    `label_columns` are the columns of its record that the client fills by fields or its body. `asked` is what its body
    asks for, where the price needs to know.
    """

    request_id: str
    inbound: Inbound
    match: RouteMatch
    key: bytes
    label_columns: str
    asked: Asked = NOTHING_ASKED
    claim: IdempotencyClaim | None = None

    @property
    def route(self) -> Route:
        return self.match.route


class AdmittedCall(NamedTuple):
    """A call that may be forwarded: whose it is, and the quote by which credits are held for it.

    `max_body_bytes` is the most that its body may hold, None for no limit. `record_prefix` are the columns of its
    record that are known by now. The response to a call with a claim is stored only if `stores_response`.
    """

    request_id: str
    inbound: Inbound
    route: Route
    path: str
    upstream_path: bytes
    claim: IdempotencyClaim | None
    caller: Caller
    plan: Plan
    max_body_bytes: int | None
    quote: Quote
    admission: Admission
    record_prefix: str
    is_on_outage_credit: bool = False
    stores_response: bool = True


def build_admission_request(
    request_id: str, inbound: Inbound, match: RouteMatch, *, key: bytes, body: WholeBody | None, key_digest: str | None
) -> AdmissionRequest:
    """`key_digest` is that of the request's Idempotency-Key; its body was read then."""
    cache = inbound.cache
    if body is not None and body.asked.texts:
        labels = _label_columns(inbound, body.asked.texts)
    elif cache.label_columns is not None:
        labels = cache.label_columns
    else:
        labels = cache.label_columns = _label_columns(inbound, {})
    if body is None:
        return AdmissionRequest(request_id, inbound, match, key, labels)
    claim = None if key_digest is None else claim_of(key_digest, inbound, body)
    return AdmissionRequest(request_id, inbound, match, key, labels, body.asked, claim)


def render_record_prefix(request: AdmissionRequest, caller: Caller, quote: Quote) -> str:
    """The record of a call that counts against a cap is dated in the cap's period, also where our clock is behind."""
    moment = time.time_ns() // 1000
    if caller.cap is not None and moment < caller.cap.since:
        moment = caller.cap.since
    return records.prefix(
        request_id=request.request_id,
        created_at=moment,
        caller=caller.record_columns,
        route=request.match.record_columns,
        product_count=quote.items,
        labels=request.label_columns,
        client_ip=request.inbound.client_ip,
        client_request_id=request.inbound.client_request_id,
    )


def _label_columns(inbound: Inbound, texts: Mapping[str, str]) -> str:
    """Each comes from a header field, else from a member of a body that was read anyway."""

    def column(field: bytes, member: str) -> str:
        value = inbound.text(field)
        if value is None:
            value = texts.get(member, "")[:MAX_TEXT_LENGTH] or None
        return records.text(value)

    return records.label_columns(
        language_code=column(b"x-language-code", "language_code"),
        category=column(b"x-category", "category"),
        batch_id=column(b"x-batch-id", "batch_id"),
    )
