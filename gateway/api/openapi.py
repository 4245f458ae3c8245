"""The OpenAPI document beyond what FastAPI derives: failures, security, schema names; and the page that renders it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import HTMLResponse, Response

from gateway.api.middleware import refuse_ignored_body
from gateway.api.page_policy import policy_of

ADMIN = """\
Everything an operator can see and change. Send `Authorization: Bearer ADMIN_TOKEN`.

A change holds from the very next request of any client on. Lists are `{"data": [...], "next_cursor": null}`: ask again
with `?cursor=` until it is null. Every answer carries `X-Request-Id`; errors are problem documents (RFC 9457).

Every POST takes an `Idempotency-Key` header of 1 to 255 visible ASCII characters: for a day a repeat of the request
gets the first answer, 409 while that is still running; another request with the same key is 422. No schema could say
that a value must be new, so no operation lists it as a parameter.

Each operation names the scope that an admin token needs for it, and fields that need another say so; the token of the
environment has them all."""


ACCOUNT = """\
What a customer can see and change. Register and log in at `/auth`, then send `Authorization: Bearer ACCESS_TOKEN`.

Each user sees and changes what is theirs; anything else is 404. A change holds from the very next request on. Lists are
`{"data": [...], "next_cursor": null}`: ask again with `?cursor=` until it is null. Every answer carries `X-Request-Id`;
errors are problem documents (RFC 9457).

Every POST of somebody signed in takes an `Idempotency-Key` header of 1 to 255 visible ASCII characters: for a day a
repeat of the request gets the first answer, and begins no second checkout."""


router = APIRouter(include_in_schema=False)
_PAGE = Path(__file__).with_name("openapi.html").read_text("utf-8")
_PAGE_FIELDS = {"content-security-policy": policy_of(_PAGE, fetches=True)}


@router.get("/docs")
async def docs() -> HTMLResponse:
    return HTMLResponse(_PAGE, headers=_PAGE_FIELDS)


class FieldError(BaseModel):
    field: str = Field(examples=["email"])
    message: str = Field(examples=["required"])


class ProblemError(BaseModel):
    """The same in the form that the client libraries of OpenAI and Anthropic show."""

    message: str = Field(examples=["There is no key 0198c0de-0000-7000-8000-000000000000."])
    type: str = Field(examples=["not_found_error"])
    code: str = Field(examples=["not_found"])


class Problem(BaseModel):
    """Why a request failed (RFC 9457). `code` is for programs, `detail` for people."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["/problems/not_found"])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    code: str = Field(examples=["not_found"])
    detail: str = Field(examples=["There is no key 0198c0de-0000-7000-8000-000000000000."])
    request_id: str
    error: ProblemError
    errors: list[FieldError] | None = Field(
        default=None, description="Of `validation_failed`: what is wrong, by field; 20 at most."
    )
    errors_omitted: int | None = Field(default=None, description="How many errors `errors` leaves out.")


def problem_of(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


# By status, as FastAPI takes them; each operation names those that it can meet.
Responses = dict[int | str, dict[str, Any]]
GUARDED: Responses = {
    400: problem_of("`invalid_body`: the body is not JSON"),
    401: problem_of("`unauthorized`: no token, or not a valid one"),
    413: problem_of("`payload_too_large`"),
    422: problem_of("`validation_failed`: `errors` names each field"),
    429: problem_of("`rate_limited`: too many unknown tokens came from this address"),
    503: problem_of("`accounts_unavailable`: the database is out of reach; try again"),
}
SCOPED: Responses = {403: problem_of("`insufficient_scope`: the token lacks the `scope`")}
# Of the account API: what any operation can meet, and what each operation of somebody signed in can.
COMMON: Responses = {status: GUARDED[status] for status in (400, 413, 422, 503)}
SIGNED_IN: Responses = {
    401: problem_of("`unauthorized`: no token, or not a valid one"),
    403: problem_of("`account_suspended`"),
    429: problem_of("`rate_limited`: too many unknown tokens or keys came from this address"),
}
THROTTLED: Responses = {429: problem_of("`rate_limited`: too many attempts; `Retry-After` says when to try again")}
UNKNOWN: Responses = {404: problem_of("`not_found`: there is no such thing")}
PAID_FOR: Responses = {501: problem_of("`payments_not_configured`: no provider, or not all that it needs")}
CONFLICTS: Responses = {409: problem_of("`conflict`: not in this state; the detail says what can be done")}


class Guard(NamedTuple):
    """One bearer scheme for all operations below a path; `scope_of` says for a method and a path what it must hold."""

    prefix: str
    scheme: str
    description: str
    scope_of: Callable[[str, str], str]


_RUNNING = problem_of("`idempotency_in_progress`: a request with this Idempotency-Key is still running")


def application(title: str, description: str, operations: APIRouter) -> FastAPI:
    """An API of these operations, whose documents are those of `install`."""
    app = FastAPI(
        title=title,
        version="1",
        description=description,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.router.routes.extend(operations.routes)
    return app


def no_operations() -> APIRouter:
    """To include operations in. They refuse bodies that no operation reads.

    FastAPI takes a quarter of a second to analyse all of an API, so applications of one process share them.
    """
    return APIRouter(generate_unique_id_function=lambda route: route.name, dependencies=[Depends(refuse_ignored_body)])


def install(app: FastAPI, *, guard: Guard | None) -> None:
    """Makes the app serve the document with problems and the guard, computed once on demand, and its page.

    Without a guard the endpoints declare the security that they require.
    """

    lock = Lock()
    rendered: list[bytes] = []

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, guard)
        return app.openapi_schema

    # Not async: the document takes 0.3 s to compute, which a thread spares the calls on this process.
    def render() -> Response:
        with lock:
            if not rendered:
                rendered.append(json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode())
        return Response(rendered[0], media_type="application/json")

    app.openapi = document  # type: ignore[method-assign] # the hook that FastAPI documents
    app.add_api_route("/openapi.json", render, include_in_schema=False)
    app.include_router(router)


def _document(app: FastAPI, guard: Guard | None) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = found.setdefault("components", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components.setdefault("schemas", {}).update(problem.pop("$defs"), Problem=problem)
    if guard is not None:
        _secure(found, guard)
    _name_running(found)
    return _named_by_title(found)


def _secure(document: dict[str, Any], guard: Guard) -> None:
    scheme = {"type": "http", "scheme": "bearer", "description": guard.description}
    document["components"]["securitySchemes"] = {guard.scheme: scheme}
    for path, operations in document["paths"].items():
        if path.startswith(guard.prefix):
            for method, operation in operations.items():
                # For a scheme other than OAuth these are roles (OpenAPI 3.1, Security Requirement Object).
                operation["security"] = [{guard.scheme: [guard.scope_of(method.upper(), path)]}]


def _name_running(document: dict[str, Any]) -> None:
    """POSTs of a known caller take an Idempotency-Key."""
    for operations in document["paths"].values():
        if operations.get("post", {}).get("security"):
            operations["post"]["responses"].setdefault("409", _RUNNING)


def _named_by_title(document: dict[str, Any]) -> dict[str, Any]:
    """The document with each schema under its title: `UserPage`, not `PageModel_User_`, names a class of a client."""
    schemas = document["components"]["schemas"]
    titles = {name: schema.get("title", name) for name, schema in schemas.items()}
    document["components"]["schemas"] = {
        title: schemas[name] for title, name in sorted((title, name) for name, title in titles.items())
    }
    references = {f"#/components/schemas/{name}": f"#/components/schemas/{title}" for name, title in titles.items()}
    renamed: dict[str, Any] = _replace_references(document, references)
    return renamed


def _replace_references(node: Any, references: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {
            name: references[value] if name == "$ref" else _replace_references(value, references)
            for name, value in node.items()
        }
    return [_replace_references(each, references) for each in node] if isinstance(node, list) else node
