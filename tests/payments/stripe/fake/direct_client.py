"""A client of the fake Stripe that calls it without HTTP."""

from __future__ import annotations

import json
from typing import Any

from tests.payments.fake_stripe import FakeStripe, Object


class DirectClient:
    """Calls the fake without HTTP, for tests with hundreds of lifecycles: `v1.invoices.retrieve_async` and so on."""

    def __init__(self, world: FakeStripe, path: tuple[str, ...] = ()) -> None:
        self._world = world
        self._path = path

    def __getattr__(self, name: str) -> DirectClient:
        return DirectClient(self._world, self._path if name == "v1" else (*self._path, name))

    async def __call__(self, *given: Any) -> _Response:
        *service, verb = self._path
        path = "/".join(service).split("/")
        params: Object = next((each for each in given if isinstance(each, dict)), {})
        if verb == "retrieve_async":
            expand = dict(enumerate(params.get("expand", [])))
            return _Response(self._world._answer("GET", [*path, given[0]], {"expand": expand}))
        if verb == "list_async":
            return _Response(self._world._answer("GET", path, dict(params)))
        return _Response(self._world._answer("POST", path, json.loads(json.dumps(params), object_hook=_numbered)))


class _Response:
    def __init__(self, found: Object) -> None:
        self._found = json.dumps(found)

    def to_dict(self) -> Object:
        answer: Object = json.loads(self._found)
        return answer


def _numbered(found: Object) -> Object:
    """Lists as a form has them: {"0": …}."""
    return {
        name: {str(at): each for at, each in enumerate(value)} if isinstance(value, list) else value
        for name, value in found.items()
    }
