"""Which operations the account API has, so that what it has not is refused before anything is spent on it.

FastAPI looks at one route after another, and at all of them for a path that it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from pydantic import TypeAdapter
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api import error_responses


class BodySchema(NamedTuple):
    """What the body of an operation must be; `names` are those of its members, empty where it is no object."""

    adapter: TypeAdapter[Any]
    names: frozenset[str]
    is_required: bool


class Operation(NamedTuple):
    """`path` is as the API documents it; `schema` is None where the operation takes no JSON."""

    path: str
    schema: BodySchema | None


_Methods = Mapping[str, Operation]


class Operations:
    """The operations of an app. `spelt_out` has all paths that one with a parameter stands for, where they are few."""

    def __init__(self, app: FastAPI, *, spelt_out: Mapping[str, Iterable[str]]) -> None:
        self._exact: dict[str, dict[str, Operation]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Operation]]] = []
        patterns: dict[re.Pattern[str], dict[str, Operation]] = {}
        for context in iter_route_contexts(app.routes):
            path, methods = context.path or "", _operations_of(context)
            for each in spelt_out.get(path, () if "{" in path else (path,)):
                self._exact.setdefault(each, {}).update(methods)
            if "{" in path and path not in spelt_out:
                patterns.setdefault(context.path_regex, {}).update(methods)
        self._patterns = list(patterns.items())
        for path, methods in self._exact.items():
            for found in self._matching(path):
                methods.update({name: each for name, each in found.items() if name not in methods})

    def of_path(self, path: str) -> _Methods:
        """The operations of a path as the client sent it, by method; empty where there is nothing."""
        found = self._exact.get(path)
        if found is not None:
            return found
        matching = self._matching(path)
        return matching[0] if len(matching) == 1 else {name: each for one in matching for name, each in one.items()}

    def _matching(self, path: str) -> Sequence[_Methods]:
        return [methods for pattern, methods in self._patterns if pattern.match(path)]


class OperationFilter:
    """Answers 404 and 405; what follows finds the operation in the state of the scope."""

    def __init__(self, app: ASGIApp, operations: Operations) -> None:
        self._app = app
        self._operations = operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        methods = self._operations.of_path(scope["path"])
        operation = methods.get(scope["method"])
        if operation is not None:
            scope["state"]["operation"] = operation
            await self._app(scope, receive, send)
        elif methods:
            await error_responses.send(error_responses.not_allowed(scope["method"], methods), scope, send)
        else:
            await error_responses.send(error_responses.nothing_at(scope["path"]), scope, send)


def _operations_of(context: RouteContext) -> dict[str, Operation]:
    field = getattr(context, "body_field", None)
    schema = None if field is None else _schema(field.field_info)
    return {method: Operation(context.path or "", schema) for method in context.methods or ()}


def _schema(field: Any) -> BodySchema:
    adapter: TypeAdapter[Any] = TypeAdapter(field.annotation)
    alternatives = (field.annotation, *getattr(field.annotation, "__args__", ()))  # of `Model | None` too
    model = next((each for each in alternatives if _is_model(each)), None)
    names = frozenset(() if model is None else model.model_fields)
    return BodySchema(adapter, names, field.is_required())


def _is_model(kind: Any) -> bool:
    return hasattr(kind, "model_fields")
