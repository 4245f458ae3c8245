"""Every place of an OpenAPI document that takes a value, and requests with what breaks rows and workers in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import quote
from uuid import uuid4

LONG = 20_000  # characters: above what any field takes, below what a body may have
# Text that PostgreSQL, UTF-8, mail, logs or tables cannot hold, or hold twice; and numbers at the ends of every type.
TEXTS = (
    "\0",
    "a\0b",
    "\ud800",
    "a\udc00b",
    "\ud83d\ud83d",
    "x" * LONG,
    "\u0130" * 100,
    "a\tb\r\nc: d",
    "\u202egnp.exe",
    "fe80::1%x\ty",
    "fe80::1%eth0/64",
    "=HYPERLINK(1)",
    "9" * 5000,
)
NUMBERS = (
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    -(2**31) - 1,
    -(2**63) - 1,
    10**400,
    10**12 + 1,
    -1,
    1e308,
    float("inf"),
    float("nan"),
)
BROKEN: tuple[Any, ...] = (*TEXTS, *NUMBERS, {"\0": "\ud800"}, ["\0"], {"a": 2**63})
RAW = ("%00", "a%00b", "%ED%A0%80", "%80%FF", "%F4%90%80%80", "%0D%0A", *(quote(str(number)) for number in NUMBERS))
IN_ADDRESSES = (*RAW, "x" * 2000, "fe80::1%25x%09y")


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation and what it takes: parameters by name, and the JSON that its schema's examples make."""

    method: str
    path: str
    query: tuple[str, ...]
    in_path: tuple[str, ...]
    body: dict[str, Any] | None
    schema: Any


class Places:
    """The operations of a document."""

    def __init__(self, document: dict[str, Any], unknown_id: str) -> None:
        self._document = document
        self._unknown_id = unknown_id

    def operations(self) -> Iterator[Operation]:
        for path, methods in self._document["paths"].items():
            for method, found in methods.items():
                names = [(each["in"], each["name"]) for each in found.get("parameters", ())]
                content = found.get("requestBody", {}).get("content", {}).get("application/json")
                schema = None if content is None else content["schema"]
                yield Operation(
                    method.upper(),
                    path,
                    tuple(name for where, name in names if where == "query"),
                    tuple(name for where, name in names if where == "path"),
                    None if schema is None else self.example(schema),
                    schema,
                )

    def bodies(self, operation: Operation, known: dict[str, str]) -> Iterator[tuple[str, bytes]]:
        """A body for each member at any depth and each broken value: where it is, and the JSON.

        The other members make a request that is good: it names what is there, and no name that is taken.
        """
        if operation.body is None:
            return
        for pointer in self._pointers(operation.schema, ()):
            for value in BROKEN:
                good = {name: _good(name, each, known) for name, each in operation.body.items()}
                yield "/".join(map(str, pointer)), rendered(_with(good, pointer, value))
        yield "another member", rendered({**operation.body, "\0\ud800": 1})

    def example(self, schema: Any) -> Any:
        """What the examples of a schema make of it."""
        resolved = self._resolved(schema)
        if "examples" in resolved:
            return resolved["examples"][0]
        properties = resolved.get("properties", {})
        required = set(resolved.get("required", ()))
        return {name: self._leaf(each) for name, each in properties.items() if "examples" in each or name in required}

    def _leaf(self, schema: Any) -> Any:
        resolved = self._resolved(schema)
        if "examples" in resolved:
            return resolved["examples"][0]
        if "enum" in resolved:
            return resolved["enum"][0]
        kinds = {"integer": 1, "number": 1, "boolean": True, "array": []}
        if resolved.get("type") in kinds:
            return kinds[resolved["type"]]
        return self._unknown_id if resolved.get("format") == "uuid" else self.example(resolved) or "x"

    def _pointers(self, schema: Any, at: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
        resolved = self._resolved(schema)
        if at:
            yield at
        for name, each in resolved.get("properties", {}).items():
            yield from self._pointers(each, (*at, name))
        if "items" in resolved:
            yield from self._pointers(resolved["items"], (*at, 0))
        if isinstance(resolved.get("additionalProperties"), dict) or resolved.get("additionalProperties") is True:
            yield (*at, "any")

    def _resolved(self, schema: Any) -> dict[str, Any]:
        """The schema itself, without null, and of alternatives the first with members."""
        if "$ref" in schema:
            return self._resolved(self._document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        some = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
        if not some:
            return dict(schema)
        chosen = next((each for each in some if each.keys() & {"$ref", "properties", "items"}), some[0])
        return {**self._resolved(chosen), **{name: schema[name] for name in ("examples",) if name in schema}}


def _good(name: str, example: Any, known: dict[str, str]) -> Any:
    if name == "email":
        return f"{uuid4().hex}@example.com"
    return uuid4().hex if name in ("id", "name", "external_id") else known.get(name, example)


def rendered(body: Any) -> bytes:
    """JSON as a client without scruples writes it: halves of surrogate pairs, numbers of any length, NaN."""
    return json.dumps(body, ensure_ascii=True).encode()


def _with(body: Any, pointer: tuple[str | int, ...], value: Any) -> Any:
    """A copy of the body with a value at the pointer; what is missing on the way is made."""
    made = deepcopy(body)
    node = made
    for step, following in pairwise(pointer):
        node = _child(node, step, [] if isinstance(following, int) else {})
    _set(node, pointer[-1], value)
    return made


def _child(node: Any, step: str | int, empty: Any) -> Any:
    known = node[step] if (step in node if isinstance(step, str) else step < len(node)) else None
    if not isinstance(known, type(empty)):
        known = empty
        _set(node, step, known)
    return known


def _set(node: Any, step: str | int, value: Any) -> None:
    if isinstance(step, int):
        node[:] = [value, *node[1:]]
    else:
        node[step] = value
