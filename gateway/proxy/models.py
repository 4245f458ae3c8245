"""The models that a caller may use, as the API of the price list's reader lists them.

The gateway knows names and prices only: where a form asks for the time of a release, it is the epoch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from gateway.http.fields import HeaderBlock
from policies.model import Plan, Refusal, Refused, Route
from policies.pricing.price_list import PriceList, ReaderName
from policies.pricing.quotes import is_in_plan, models_in_plan

FIELDS = HeaderBlock(b"content-type: application/json\r\n")
_EPOCH = "1970-01-01T00:00:00Z"


def render(route: Route, plan: Plan, path: str) -> bytes:
    """The document for a path of a route that serves models: all of a plan, or the one named below a prefix.

    Raises Refused for a model that is not offered, or not in the plan.
    """
    listed = route.price
    if not isinstance(listed, PriceList):
        raise TypeError(f"the route {route.name} has no price list")
    one, many = _FORMS.get(listed.reader, (_openai, _openai_list))
    if not route.path.endswith("/**"):
        return _bytes(many([one(listed, name) for name in models_in_plan(listed, plan)]))
    name = unquote(path[len(route.path) - len("**") :])
    if not is_in_plan(listed, plan, name):
        raise Refused(Refusal.ROUTE_NOT_FOUND, f"There is no model {name[:100]!r} in your plan.")
    return _bytes(one(listed, name))


def _bytes(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _openai(listed: PriceList, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": listed.name}


def _openai_list(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": found}


def _anthropic(_: PriceList, name: str) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": name, "created_at": _EPOCH}


def _anthropic_list(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, last = (found[0]["id"], found[-1]["id"]) if found else (None, None)
    return {"data": found, "has_more": False, "first_id": first, "last_id": last}


def _gemini(listed: PriceList, name: str) -> dict[str, Any]:
    methods = ["generateContent", "streamGenerateContent"]
    model = {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods}
    price = listed.find(name)
    limit = None if price is None else price.max_output
    return model if limit is None else model | {"outputTokenLimit": limit}


def _named_list(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"models": found}


def _ollama(_: PriceList, name: str) -> dict[str, Any]:
    return {"name": name, "model": name, "modified_at": _EPOCH, "size": 0, "digest": "", "details": {}}


_One = Callable[[PriceList, str], dict[str, Any]]
_Many = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
_FORMS: Mapping[ReaderName, tuple[_One, _Many]] = {
    ReaderName.ANTHROPIC: (_anthropic, _anthropic_list),
    ReaderName.GEMINI: (_gemini, _named_list),
    ReaderName.OLLAMA: (_ollama, _named_list),
}
