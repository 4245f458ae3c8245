"""How each failure is answered: one table from exception to problem document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from gateway.api.checkout import PaymentsNotConfigured
from gateway.api.errors import Busy, Conflict, Invalid, NotAuthenticated, NotInScope, Suspended, Throttled
from gateway.http.problems import Problem, problem
from gateway.ledger.db.errors import AlreadyExists, InUse, InvalidValue, NotFound
from gateway.ledger.db.rows import InvalidCursor
from gateway.ledger.db.session import DatabaseUnavailable
from gateway.ledger.payments.provider_updates import Mismatch
from gateway.ledger.subscriptions.subscriptions import IllegalTransition
from gateway.meter.client.client import MeterUnavailable
from gateway.payments.provider import InvalidWebhook, ProviderRefused, ProviderUnavailable
from policies.model import Refused


class Answer(NamedTuple):
    """A problem before it is rendered: its code, a sentence, and further members by name."""

    code: str
    detail: str
    extras: Mapping[str, object] = {}


UNREACHABLE = Answer(
    "accounts_unavailable", "Accounts cannot be reached at the moment; try again shortly.", {"retry_after": 1}
)


def install(app: FastAPI) -> None:
    """Makes the app answer every failure with a problem document, and none with its own words."""
    for kind, read in _READINGS.items():
        app.add_exception_handler(kind, partial(_respond, read))


def response(found: Problem) -> Response:
    made = Response(found.body, found.status)
    made.raw_headers = found.headers
    return made


def invalid(field: str, message: str) -> Answer:
    return Answer("validation_failed", f"{field}: {message}", {"errors": [{"field": field, "message": message}]})


def refusal(error: Exception, request: Request) -> Response:
    """Of what comes before the app, and so before its handlers; `error` is of a kind that the table names."""
    read = next(_READINGS[kind] for kind in type(error).__mro__ if kind in _READINGS)
    return _told(read(error, request), request)


async def _respond(read: Callable[[Any, Request], Answer], request: Request, error: Exception) -> Response:
    return _told(read(error, request), request)


def _told(answer: Answer, request: Request) -> Response:
    return response(problem(answer.code, answer.detail, request_id=request.state.request_id, extras=answer.extras))


def _unparsable(error: RequestValidationError, _: Request) -> Answer:
    errors = error.errors()
    if any(each["type"] == "json_invalid" for each in errors):
        return Answer("invalid_body", "The body is not JSON.")
    unknown = [each for each in errors if each["loc"][0] == "path"]
    if unknown:
        return Answer("not_found", f"There is no such {unknown[0]['loc'][-1]}.")
    found = [{"field": _field(each["loc"]), "message": _message(each)} for each in errors]
    detail = "; ".join(f"{each['field']}: {each['message']}" for each in found)
    return Answer("validation_failed", detail, {"errors": found})


def _field(location: Iterable[str | int]) -> str:
    """`allowed_ips.0` for ("body", "allowed_ips", 0); `body` for the body itself."""
    first, *rest = location
    return ".".join(map(str, rest)) or str(first)


# What pydantic says of Python, said of JSON.
_MESSAGES = {
    "extra_forbidden": "no such field",
    "missing": "required",
    "model_attributes_type": "must be a JSON object, sent with Content-Type: application/json",
    "model_type": "must be a JSON object, sent with Content-Type: application/json",
}


def _message(error: Mapping[str, Any]) -> str:
    return _MESSAGES.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")


def _http(error: HTTPException, request: Request) -> Answer:
    if error.status_code == 404:
        return Answer("not_found", f"There is nothing at {request.url.path}.")
    if error.status_code == 405:
        allowed = _methods(request.app.routes, request.scope)
        return Answer(
            "method_not_allowed",
            f"{request.method} is not possible here, only {', '.join(allowed)}.",
            {"allow": allowed},
        )
    if error.status_code == 413:
        return Answer("payload_too_large", "The body is larger than this API takes.")
    return Answer("invalid_body", "The body cannot be read.")  # what FastAPI says when parsing breaks off


def _methods(routes: Iterable[BaseRoute], scope: Scope) -> list[str]:
    """All methods of the path: each operation is a route of its own, and the router names those of the first only."""
    return [
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]


# What must be unique, by the name of its constraint.
_TAKEN = {
    "uq_users_email_lower": "Another user has this email address.",
    "uq_users_external_id": "Another user has this external_id.",
    "pk_subscription_plans": "Another plan has this id; change that one, or give an id.",
    "uq_subscription_plans_name": "Another plan has this name; change that one instead.",
    "uq_subscription_plans_stripe_price_id": "Another plan has this stripe_price_id.",
    "uq_subscription_plans_lemon_squeezy_variant_id": "Another plan has this lemon_squeezy_variant_id.",
    "uq_subscriptions_current": "The user has a current subscription; cancel that one at once before starting another.",
    "uq_subscriptions_trial": "The account has had its one trial; subscribe without.",
    "uq_permissions_name": "There is a permission of this name already.",
}


def _taken(error: AlreadyExists, _: Request) -> Answer:
    return Answer("conflict", _TAKEN.get(error.constraint) or f"Another {error.entity} has the same value.")


def _not_storable(error: DBAPIError, _: Request) -> Answer:
    """A value beyond what its column holds (PostgreSQL, appendix A, class 22); anything else is a bug of ours."""
    cause = error.orig.__cause__ if error.orig is not None else None
    if str(getattr(cause, "sqlstate", None) or "").startswith("22"):
        return Answer("validation_failed", "A value is out of range.", {"errors": []})
    raise error


_READINGS: Mapping[type[Exception], Callable[[Any, Request], Answer]] = {
    RequestValidationError: _unparsable,
    HTTPException: _http,
    Conflict: lambda error, _: Answer("conflict", str(error)),
    IllegalTransition: lambda error, _: Answer("conflict", str(error), {"legal": list(error.illegal.legal)}),
    Mismatch: lambda error, _: Answer("conflict", str(error)),
    PaymentsNotConfigured: lambda error, _: Answer("payments_not_configured", str(error)),
    ProviderRefused: lambda error, _: Answer("payment_refused", str(error)),
    ProviderUnavailable: lambda error, _: Answer("payment_unavailable", str(error), {"retry_after": 5}),
    InvalidWebhook: lambda error, _: Answer("invalid_webhook", f"{error}."),
    NotInScope: lambda error, _: Answer("insufficient_scope", str(error), {"scope": error.scope}),
    MeterUnavailable: lambda *_: Answer(
        "metering_unavailable", "Redis cannot be reached at the moment; try again shortly.", {"retry_after": 1}
    ),
    Refused: lambda error, _: Answer(str(error.code), error.detail, error.extras),
    NotAuthenticated: lambda error, _: Answer("unauthorized", str(error)),
    Suspended: lambda error, _: Answer("account_suspended", str(error)),
    Throttled: lambda error, _: Answer("rate_limited", str(error), {"retry_after": error.retry_after_seconds}),
    Busy: lambda error, _: Answer("overloaded", str(error), {"retry_after": 1}),
    Invalid: lambda error, _: invalid(error.field, str(error)),
    NotFound: lambda error, _: Answer("not_found", f"There is {error}."),
    AlreadyExists: _taken,
    InUse: lambda error, _: Answer("conflict", f"{error}."),
    InvalidValue: lambda error, _: invalid(error.entity, f"breaks the rule {error.constraint}"),
    InvalidCursor: lambda *_: invalid("cursor", "not a next_cursor that this list gave out"),
    DBAPIError: _not_storable,
    DatabaseUnavailable: lambda *_: UNREACHABLE,
    Exception: lambda *_: Answer("internal_error", "Something went wrong here; the request_id finds it in the logs."),
}
