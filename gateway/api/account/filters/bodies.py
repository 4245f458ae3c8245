"""Validates the body of a request that anybody may make, and the token in it, before the app is asked.

FastAPI validates it too, but by then it has spent several times as much as a good call costs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api import error_responses
from gateway.api.account.filters.operations import BodySchema, Operation
from gateway.api.account.login.recovery import UNUSABLE_TOKEN
from gateway.api.account.login.throttling import record_failure
from gateway.api.error_responses import MAX_ERRORS, ErrorResponse
from gateway.api.middleware import repeating
from policies.access.tokens import Purpose, read_one_time

_is_json = re.compile(rb"[ \t]*application/(?:json|[!#$&^_.a-z0-9+-]+\+json)[ \t]*(?:;.*)?", re.IGNORECASE).fullmatch

_PURPOSES = {"/auth/verify-email": Purpose.VERIFY_EMAIL, "/auth/reset-password": Purpose.RESET_PASSWORD}
# Up to this size a body is parsed whatever it is, and told all that is wrong with it.
EXACT_BYTES = 4096
# A request has a name and a value for each of at most five members; its values have less than so many characters.
_MAX_STRINGS, _MAX_COMMAS = 50, 2_000
CROWDED = error_responses.invalid("body", "has more members than any request here takes")
_NOT_AN_OBJECT = {"type": "model_type", "loc": ("body",), "msg": ""}
_MISSING = {"type": "missing", "loc": ("body",), "msg": ""}


class BodyFilter:
    """Answers 413, 400 and 422 for the operations that have a schema and need no caller."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation: Operation | None = scope.get("state", {}).get("operation")
        if operation is None or operation.schema is None or "caller" in scope["state"]:
            await self._app(scope, receive, send)
            return
        try:
            message = await receive()
        except HTTPException:
            await error_responses.send(error_responses.TOO_LARGE, scope, send)
            return
        if message["type"] == "http.request":
            found = validated(message.get("body", b""), operation.schema, scope["headers"])
            if isinstance(found, ErrorResponse):
                await error_responses.send(found, scope, send)
                return
            scope["state"]["body"] = found
        await self._app(scope, repeating(message, receive), send)


class OneTimeTokenFilter:
    """Answers 422 to tokens that this gateway never made, as their MAC tells. `BodyFilter` has validated the body."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, purpose = scope.get("state", {}).get("body"), _PURPOSES.get(scope.get("path", ""))
        if body is None or purpose is None or read_one_time(self._secret, purpose, body.token) is not None:
            await self._app(scope, receive, send)
            return
        record_failure("one_time_token", address=(scope.get("client") or ("",))[0])
        await error_responses.send(error_responses.invalid("token", UNUSABLE_TOKEN), scope, send)


def validated(body: bytes, schema: BodySchema, headers: Sequence[tuple[bytes, bytes]]) -> Any:
    """What the body is, by its schema; or the ErrorResponse that says what is wrong with it."""
    if not body:
        return error_responses.of_errors([_MISSING]) if schema.is_required else None
    content_type = next((value for name, value in headers if name == b"content-type"), b"")
    if not _is_json(content_type):
        return error_responses.of_errors([_NOT_AN_OBJECT])
    if len(body) > EXACT_BYTES and _is_crowded(body):
        return CROWDED
    try:
        found = json.loads(body)
    except json.JSONDecodeError:
        return error_responses.NOT_JSON
    except (ValueError, RecursionError):
        return error_responses.UNREADABLE
    if type(found) is dict and schema.names and len(found) > len(schema.names) + MAX_ERRORS:
        return _of_too_many(found, schema)
    try:
        return schema.adapter.validate_python(found)
    except ValidationError as error:
        return error_responses.of_errors(_located(error))


def _is_crowded(body: bytes) -> bool:
    """Whether it has more members than any schema takes, which is told in microseconds, as parsing it is not.

    In JSON the quotes that no backslash precedes are one or two for each string. Commas may stand in strings.
    """
    quotes = body.count(b'"') - body.count(b'\\"')
    return quotes > 2 * _MAX_STRINGS or body.count(b",") > _MAX_COMMAS


def _of_too_many(found: Mapping[str, Any], schema: BodySchema) -> ErrorResponse:
    """Pydantic sees the known members alone, for each of the others costs it an error, of which most are not told."""
    known = {name: found[name] for name in schema.names if name in found}
    errors: list[Mapping[str, Any]] = []
    try:
        schema.adapter.validate_python(known)
    except ValidationError as error:
        errors += _located(error)
    unknown = list(islice((name for name in found if name not in schema.names), MAX_ERRORS - len(errors)))
    errors += [{"type": "extra_forbidden", "loc": ("body", name)} for name in unknown]
    return error_responses.of_errors(errors, omitted=len(found) - len(known) - len(unknown))


def _located(error: ValidationError) -> list[Mapping[str, Any]]:
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    return [{**each, "loc": ("body", *each["loc"])} for each in errors]
