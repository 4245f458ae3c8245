"""Forms of pages that are carried out once, however often a browser sends them.

A form has an id of its own, as a request to the API has an Idempotency-Key. Its claim is committed before the form is
carried out, which may take as long as a call; the response is stored with placeholders for secrets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.responses import Response

from gateway.api import error_responses
from gateway.api.account.dependencies import AccountDependencies
from gateway.api.errors import Conflict
from gateway.api.idempotency.operations import KeyedOperation
from gateway.api.key_factory import KeyFactory
from gateway.clock import monotonic_seconds
from gateway.http.problem_types import PROBLEM_TYPES
from gateway.ledger.db import idempotency
from gateway.ledger.db.idempotency import RUNNING, Claim, Running, StoredResponse

# How long a repeat waits for the first one. Of a double click the browser shows the response to the second.
WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.1
_NAMESPACE = b"form\0"  # no Idempotency-Key has such a byte

_OTHER_VALUES = (
    "This form was sent before with other values. Nothing was done with these: load the page again, and send it."
)
_RUNNING = "This form was sent already, and is being worked on. Reload the page to see the result."


@dataclass(frozen=True, slots=True)
class SentForm:
    """`fields` are what makes it another form, without secrets."""

    caller: str
    once: str
    fields: bytes


@dataclass(frozen=True, slots=True)
class EarlierResponse:
    """To the same form; `body` is a page, or the location of a redirect."""

    status: int
    body: bytes


async def carry_out_once(
    dependencies: AccountDependencies,
    form: SentForm,
    carry_out: Callable[[KeyFactory], Awaitable[Response]],
    *,
    repeats: EarlierResponse | None = None,
) -> Response | EarlierResponse:
    """The response of `carry_out`, or the earlier one to the same form, or what `repeats` get instead.

    A refusal leaves the form free to be sent again.

    Raises Conflict for a form that is still carried out, or was sent with other values.
    """
    key = _NAMESPACE + form.once.encode()
    operation = KeyedOperation.of(form.caller, key=key, content=form.fields, peppers=dependencies.peppers)
    earlier = await _claim(dependencies, operation.claim)
    if earlier is RUNNING:
        raise Conflict(_RUNNING)
    if isinstance(earlier, StoredResponse):
        body = operation.body_of(earlier)
        if body is None:
            raise Conflict(_OTHER_VALUES)
        return EarlierResponse(earlier.status_code, body)
    try:
        response = await carry_out(dependencies.key_factory.with_secrets(operation.secrets.create))
    except error_responses.ANSWERED as error:
        if PROBLEM_TYPES[error_responses.refusal_of(error).code].status < 500:
            await _release(dependencies, operation.claim)
        raise
    if response.status_code >= 400:
        await _release(dependencies, operation.claim)
    else:
        kept = repeats or EarlierResponse(response.status_code, bytes(response.body))
        async with dependencies.database.transaction() as connection:
            await operation.store(connection, status_code=kept.status, body=kept.body)
    return response


async def _claim(dependencies: AccountDependencies, claim: Claim) -> StoredResponse | Running | None:
    give_up_at = monotonic_seconds() + WAIT_SECONDS
    while True:
        async with dependencies.database.transaction() as connection:
            earlier = await idempotency.claim(connection, claim)
        if earlier is not RUNNING or monotonic_seconds() > give_up_at:
            return earlier
        await asyncio.sleep(_POLL_SECONDS)


async def _release(dependencies: AccountDependencies, claim: Claim) -> None:
    async with dependencies.database.transaction() as connection:
        await idempotency.release(connection, claim)
