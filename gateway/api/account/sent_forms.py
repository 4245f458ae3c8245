"""Forms of pages that are carried out once, however often a browser sends them.

A form has an id of its own, as a request to the API has an Idempotency-Key. Its claim is committed before the form is
carried out, which may take as long as a call; the response is stored with placeholders for secrets.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from secrets import token_bytes

from starlette.responses import Response

from gateway.api import error_responses
from gateway.api.account.dependencies import AccountDependencies
from gateway.api.errors import Conflict
from gateway.api.idempotency import NONCE_BYTES
from gateway.api.key_factory import DeterministicSecrets, KeyFactory
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
    claim = Claim(
        caller=form.caller,
        key_hash=hashlib.sha256(key).digest(),
        fingerprint=hmac.digest(key, form.fields, "sha256"),
        nonce=token_bytes(NONCE_BYTES),
    )
    earlier = await _claim(dependencies, claim)
    if earlier is RUNNING:
        raise Conflict(_RUNNING)
    if isinstance(earlier, StoredResponse):
        if not hmac.compare_digest(earlier.fingerprint, claim.fingerprint):
            raise Conflict(_OTHER_VALUES)
        body = DeterministicSecrets(dependencies.peppers, nonce=earlier.nonce, key=key).restore(earlier.body)
        return EarlierResponse(earlier.status_code, body)
    secrets = DeterministicSecrets(dependencies.peppers, nonce=claim.nonce, key=key)
    try:
        response = await carry_out(dependencies.key_factory.with_secrets(secrets.create))
    except error_responses.ANSWERED as error:
        if PROBLEM_TYPES[error_responses.refusal_of(error).code].status < 500:
            await _release(dependencies, claim)
        raise
    if response.status_code >= 400:
        await _release(dependencies, claim)
    else:
        kept = repeats or EarlierResponse(response.status_code, bytes(response.body))
        async with dependencies.database.transaction() as connection:
            await idempotency.store_response(
                connection, claim, status_code=kept.status, media_type=None, body=secrets.redact(kept.body)
            )
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
