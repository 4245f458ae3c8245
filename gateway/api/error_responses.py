"""The response to each failure: one table from exception to problem document."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import Scope, Send

from gateway.api.checkout import PaymentsNotConfigured
from gateway.api.errors import (
    Busy,
    Conflict,
    Invalid,
    NotAuthenticated,
    NotInScope,
    PreconditionFailed,
    Suspended,
    Throttled,
)
from gateway.http.problems import Problem, problem
from gateway.ledger.db.errors import AlreadyExists, InUse, InvalidValue, NotFound
from gateway.ledger.db.rows import InvalidCursor
from gateway.ledger.db.session import DatabaseUnavailable
from gateway.ledger.payments.own_parts import ProviderMismatch
from gateway.ledger.subscriptions.subscriptions import IllegalTransition
from gateway.meter.client.errors import MeterUnavailable
from gateway.payments.provider import InvalidWebhook, ProviderRefused, ProviderUnavailable
from policies.billing.providers import ID_FIELDS
from policies.model import Refused
from policies.wording import shortened

_log = structlog.get_logger()


class ErrorResponse(NamedTuple):
    """A problem before it is rendered: its code, a sentence, and further members by name."""

    code: str
    detail: str
    extras: Mapping[str, object] = {}


# A response tells what a developer can use, and is never much longer than the request that it answers.
MAX_ERRORS = 20
_MAX_ERRORS_IN_DETAIL = 5
_MAX_FIELD_CHARACTERS = 100
_MAX_MESSAGE_CHARACTERS = 300

UNREACHABLE = ErrorResponse(
    "accounts_unavailable", "Accounts cannot be reached at the moment; try again shortly.", {"retry_after": 1}
)

TOO_MANY_ATTEMPTS = ErrorResponse(
    "rate_limited", "Too many attempts came from here; try again in 1 second.", {"retry_after": 1}
)
NOT_JSON = ErrorResponse("invalid_body", "The body is not JSON.")
UNREADABLE = ErrorResponse("invalid_body", "The body cannot be read.")
TOO_LARGE = ErrorResponse("payload_too_large", "The body is larger than this API takes.")
FAILED = ErrorResponse("internal_error", "Something went wrong here; the request_id finds it in the logs.")


def install(app: FastAPI) -> None:
    """Makes the app answer every failure with a problem document."""
    for kind, render in _RENDERERS.items():
        app.add_exception_handler(kind, partial(_handle, render))


def response_of(found: Problem) -> Response:
    response = Response(found.body, found.status)
    response.raw_headers = found.headers
    return response


def invalid(field: str, message: str) -> ErrorResponse:
    return ErrorResponse("validation_failed", f"{field}: {message}", {"errors": [{"field": field, "message": message}]})


def nothing_at(path: str) -> ErrorResponse:
    return ErrorResponse("not_found", f"There is nothing at {shortened(path, _MAX_MESSAGE_CHARACTERS)}.")


def not_allowed(method: str, operations: Collection[str]) -> ErrorResponse:
    """`operations` are the methods of the path's; `HeadMiddleware` serves HEAD where there is GET."""
    allowed = tuple(sorted({*operations, "HEAD"} if "GET" in operations else operations))
    detail = f"{method} is not possible here, only {', '.join(allowed)}."
    return ErrorResponse("method_not_allowed", detail, {"allow": allowed})


def of_errors(errors: Sequence[Mapping[str, Any]], *, omitted: int = 0) -> ErrorResponse:
    """What is wrong with a request, as pydantic found it; further errors were `omitted`."""
    found = [{"field": _field(each["loc"]), "message": _message(each)} for each in errors[:MAX_ERRORS]]
    omitted += len(errors) - len(found)
    more = {"errors_omitted": omitted} if omitted else {}
    summary = _summary(found, total=len(found) + omitted)
    return ErrorResponse("validation_failed", summary, {"errors": found, **more})


async def send_failure(error: Exception, scope: Scope, send: Send) -> None:
    """For middleware, whose exceptions the handlers of the app do not see. The table must name a class of `error`."""
    render = next(_RENDERERS[kind] for kind in type(error).__mro__ if kind in _RENDERERS)
    await _problem(render(error, Request(scope)), scope["state"]["request_id"]).send(send)


def refusal_of(error: Exception) -> ErrorResponse:
    """What a page tells of a failure in place of the document. A response for any exception."""
    if isinstance(error, HTTPException):
        return _OF_PAGES.get(error.status_code, UNREADABLE)
    render = next(_RENDERERS[kind] for kind in type(error).__mro__ if kind in _RENDERERS)
    found: ErrorResponse = render(error, None)  # type: ignore[arg-type] # none but HTTPException's reads the request
    return found


async def send(refusal: ErrorResponse, scope: Scope, send: Send) -> None:
    """For middleware that has consumed the body."""
    await _problem(refusal, scope["state"]["request_id"]).send(send)


async def _handle(render: Callable[[Any, Request], ErrorResponse], request: Request, error: Exception) -> Response:
    return _response(render(error, request), request.state.request_id)


def _response(refusal: ErrorResponse, request_id: str) -> Response:
    return response_of(_problem(refusal, request_id))


def _problem(refusal: ErrorResponse, request_id: str) -> Problem:
    return problem(refusal.code, refusal.detail, request_id=request_id, extras=refusal.extras)


def _invalid_request(error: RequestValidationError, _: Request) -> ErrorResponse:
    errors = error.errors()
    if any(each["type"] == "json_invalid" for each in errors):
        return NOT_JSON
    unknown = [each for each in errors if each["loc"][0] == "path"]
    if unknown:
        return ErrorResponse("not_found", f"There is no such {unknown[0]['loc'][-1]}.")
    return of_errors(errors)


def _summary(found: Sequence[Mapping[str, str]], *, total: int) -> str:
    shown = [f"{each['field']}: {each['message']}" for each in found[:_MAX_ERRORS_IN_DETAIL]]
    return "; ".join(shown) + (f"; and {total - len(shown)} more" if total > len(shown) else "")


def _field(location: Iterable[str | int]) -> str:
    """`allowed_ips.0` for ("body", "allowed_ips", 0); `body` for the body itself.

    Pydantic puts `[key]` behind the name of a member that is itself what is wrong.
    """
    first, *rest = (part for part in location if part != "[key]")
    return shortened(".".join(map(str, rest)) or str(first), _MAX_FIELD_CHARACTERS)


# Messages of pydantic that speak of Python, in terms of JSON.
_MESSAGES = {
    "extra_forbidden": "no such field",
    "missing": "required",
    "model_attributes_type": "must be a JSON object, sent with Content-Type: application/json",
    "model_type": "must be a JSON object, sent with Content-Type: application/json",
}


def _message(error: Mapping[str, Any]) -> str:
    known = _MESSAGES.get(error["type"])
    return known or shortened(str(error["msg"]).removeprefix("Value error, "), _MAX_MESSAGE_CHARACTERS)


def _http_exception(error: HTTPException, request: Request) -> ErrorResponse:
    if error.status_code == 404:
        return nothing_at(request.url.path)
    if error.status_code == 405:
        return not_allowed(request.method, _methods(request.app.routes, request.scope))
    return TOO_LARGE if error.status_code == 413 else UNREADABLE  # what FastAPI says when parsing breaks off


def _methods(routes: Iterable[BaseRoute], scope: Scope) -> list[str]:
    """All methods of the path: each operation is a route of its own, and the router names those of the first only."""
    return [
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]


# By the name of the unique constraint.
_DUPLICATES = {
    "uq_users_email_lower": "Another user has this email address.",
    "uq_users_external_id": "Another user has this external_id.",
    "pk_subscription_plans": "Another plan has this id; change that one, or give an id.",
    "uq_subscription_plans_name": "Another plan has this name; change that one instead.",
    **{name: f"Another plan has, or had, this {name}." for name in ID_FIELDS},
    "uq_subscriptions_current": "The user has a current subscription; cancel that one at once before starting another.",
    "uq_subscriptions_trial": "The account has had its one trial; subscribe without.",
    "uq_coupons_code": "There is a coupon of this code already, perhaps an inactive one.",
    "uq_permissions_name": "There is a permission of this name already.",
    "uq_products_name": "There is a product of this name already.",
    "uq_experiments_name": "There is an experiment of this name already, perhaps one that has ended.",
    "uq_admin_tokens_name": "An admin token has, or had, this name; the audit log names what each did by it.",
}


def _payment_refused(error: ProviderRefused, request: Request) -> ErrorResponse:
    """What the provider says of its objects and keys is for operators, and for the log."""
    _log.warning("payment_refused", reason=str(error))
    return ErrorResponse("payment_refused", str(error) if _is_operator(request) else error.to_customer)


def _payment_unavailable(error: ProviderUnavailable, request: Request) -> ErrorResponse:
    _log.warning("payment_unavailable", reason=str(error))
    detail = "The payment provider cannot be reached at the moment; try again shortly."
    return ErrorResponse("payment_unavailable", str(error) if _is_operator(request) else detail, {"retry_after": 5})


def _is_operator(request: Request) -> bool:
    return request.url.path.startswith("/admin/")


def _duplicate(error: AlreadyExists, _: Request) -> ErrorResponse:
    return ErrorResponse("conflict", _DUPLICATES.get(error.constraint) or f"Another {error.entity} has the same value.")


def _out_of_range(error: DBAPIError, _: Request) -> ErrorResponse:
    """A value that its column cannot hold (PostgreSQL, appendix A, class 22); any other error is a bug here."""
    cause = error.orig.__cause__ if error.orig is not None else None
    if str(getattr(cause, "sqlstate", None) or "").startswith("22"):
        return ErrorResponse("validation_failed", "A value is out of range.", {"errors": []})
    raise error


_RENDERERS: Mapping[type[Exception], Callable[[Any, Request], ErrorResponse]] = {
    RequestValidationError: _invalid_request,
    HTTPException: _http_exception,
    Conflict: lambda error, _: ErrorResponse("conflict", str(error)),
    PreconditionFailed: lambda error, _: ErrorResponse("precondition_failed", str(error)),
    IllegalTransition: lambda error, _: ErrorResponse("conflict", str(error), {"legal": list(error.illegal.legal)}),
    ProviderMismatch: lambda error, _: ErrorResponse("conflict", str(error)),
    PaymentsNotConfigured: lambda error, _: ErrorResponse("payments_not_configured", str(error)),
    ProviderRefused: lambda error, request: _payment_refused(error, request),
    ProviderUnavailable: lambda error, request: _payment_unavailable(error, request),
    InvalidWebhook: lambda error, _: ErrorResponse("invalid_webhook", f"{error}."),
    NotInScope: lambda error, _: ErrorResponse("insufficient_scope", str(error), {"scope": error.scope}),
    MeterUnavailable: lambda *_: ErrorResponse(
        "metering_unavailable", "Redis cannot be reached at the moment; try again shortly.", {"retry_after": 1}
    ),
    Refused: lambda error, _: ErrorResponse(str(error.code), error.detail, error.extras),
    NotAuthenticated: lambda error, _: ErrorResponse("unauthorized", str(error)),
    Suspended: lambda error, _: ErrorResponse("account_suspended", str(error)),
    Throttled: lambda error, _: ErrorResponse("rate_limited", str(error), {"retry_after": error.retry_after_seconds}),
    Busy: lambda error, _: ErrorResponse("overloaded", str(error), {"retry_after": 1}),
    Invalid: lambda error, _: invalid(error.field, str(error)),
    NotFound: lambda error, _: ErrorResponse("not_found", f"There is {error}."),
    AlreadyExists: _duplicate,
    InUse: lambda error, _: ErrorResponse("conflict", f"{error}."),
    InvalidValue: lambda error, _: invalid(error.entity, f"breaks the rule {error.constraint}"),
    InvalidCursor: lambda *_: invalid("cursor", "not a next_cursor that this list gave out"),
    DBAPIError: _out_of_range,
    DatabaseUnavailable: lambda *_: UNREACHABLE,
    Exception: lambda *_: FAILED,
}
_OF_PAGES = {
    404: ErrorResponse("not_found", "There is no such page, or nothing of yours is at this address."),
    405: ErrorResponse("method_not_allowed", "This page cannot be asked for in this way."),
    413: TOO_LARGE,
}
# Failures that are answers: whoever calls a function of the API can tell them to a person.
ANSWERED = tuple(kind for kind in _RENDERERS if kind not in (RequestValidationError, HTTPException, Exception))
