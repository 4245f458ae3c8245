"""What the OpenAPI document says beyond the endpoints themselves: how failures look, and who may call."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field

ADMIN = """\
Everything an operator can see and change. Send `Authorization: Bearer ADMIN_TOKEN`.

A change holds from the very next request of any client on. Lists are `{"data": [...], "next_cursor": null}`: ask again
with `?cursor=` until it is null. Every answer carries `X-Request-Id`; errors are problem documents (RFC 9457)."""


class FieldError(BaseModel):
    field: str = Field(examples=["email"])
    message: str = Field(examples=["required"])


class Problem(BaseModel):
    """Why a request failed (RFC 9457). `code` is for programs, `detail` for people."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["/problems/not_found"])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    code: str = Field(examples=["not_found"])
    detail: str = Field(examples=["There is no key 0198c0de-0000-7000-8000-000000000000."])
    request_id: str
    errors: list[FieldError] | None = Field(
        default=None, description="Of `validation_failed`: what is wrong, by field."
    )


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


# By status, as FastAPI takes them; each operation names those that it can meet.
Responses = dict[int | str, dict[str, Any]]
GUARDED: Responses = {
    400: _problem("`invalid_body`: the body is not JSON"),
    401: _problem("`unauthorized`: no token, or not a valid one"),
    413: _problem("`payload_too_large`"),
    422: _problem("`validation_failed`: `errors` names each field"),
    503: _problem("`accounts_unavailable`: the database is out of reach; try again"),
}
UNKNOWN: Responses = {404: _problem("`not_found`: there is no such thing")}
CONFLICTS: Responses = {409: _problem("`conflict`: not in this state; the detail says what can be done")}


def install(app: FastAPI) -> None:
    """Makes the app describe itself with problems and its security scheme; computed once, on demand."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign] # the way FastAPI documents


def _document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = found.setdefault("components", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components.setdefault("schemas", {}).update(problem.pop("$defs"), Problem=problem)
    components["securitySchemes"] = {"admin_token": {"type": "http", "scheme": "bearer"}}
    for path, operations in found["paths"].items():
        if path.startswith("/admin/"):
            for operation in operations.values():
                operation["security"] = [{"admin_token": []}]
    return found
