"""Validates parts of a document as frozen dataclasses, with problems in the words of gateway.yaml."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from gateway.config.document import Document
from gateway.config.errors import KeyPath

Value = TypeVar("Value")


class Reader:
    """Validates parts of one document and reports problems to it."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def read(self, shape: type[Value], path: KeyPath, value: object) -> Value | None:
        """The value at `path` as `shape`; None where it reported a problem."""
        try:
            adapter = _adapter(shape)  # type: ignore[arg-type]  # mypy doubts that a class is hashable
            validated: Value = adapter.validate_python({"it": value})["it"]
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                self._report(shape, path, error)
            return None
        return validated

    def _report(self, shape: type, path: KeyPath, error: ErrorDetails) -> None:
        below = error["loc"][1:]
        if error["type"] == "unexpected_keyword_argument":
            message = unknown_key(str(below[-1]), _keys_at(shape, below[:-1]))
        else:
            message = _message(error)
        self.document.report((*path, *below), message)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """`unknown key 'publik'; did you mean public? Known here: admin, public, …`."""
    names = sorted(known)
    nearest = difflib.get_close_matches(key, names, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    return f"unknown key {key!r}; {hint}known here: {', '.join(names)}"


@cache
def _adapter(shape: type) -> TypeAdapter[Any]:
    # Plain dataclasses take pydantic's settings from what encloses them: hence a map around the shape.
    return TypeAdapter(dict[str, shape], config=ConfigDict(extra="forbid"))  # type: ignore[valid-type]  # a type at run time


def _keys_at(shape: Any, path: KeyPath) -> list[str]:
    """The keys that may stand in the mapping at `path` within the shape."""
    for part in path:
        shape = _dataclass_in(shape) if isinstance(part, int) else _fields_of(_dataclass_in(shape)).get(part)
    return list(_fields_of(_dataclass_in(shape)))


def _fields_of(shape: Any) -> dict[str, Any]:
    """The types of a dataclass's fields by the key that the file uses."""
    hints = get_type_hints(shape, include_extras=True) if shape else {}
    return {key_of(name, hint): hint for name, hint in hints.items() if name in shape.__dataclass_fields__}


def _dataclass_in(hint: Any) -> Any:
    """The dataclass that a hint is, or is one of several choices of; None if there is none."""
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    return next((found for part in get_args(hint) if (found := _dataclass_in(part))), None)


def _message(error: ErrorDetails) -> str:
    render = _MESSAGES.get(error["type"])
    if render is None:
        return error["msg"].removeprefix("Value error, ")
    return render(error.get("ctx", {}), error["input"])


_MESSAGES: Mapping[str, Callable[[Mapping[str, Any], Any], str]] = {
    "missing": lambda _context, _got: "is required",
    "dataclass_type": lambda _context, _got: "must be a mapping of keys and values",
    "dict_type": lambda _context, _got: "must be a mapping of names and values",
    "list_type": lambda _context, _got: "must be a list",
    "tuple_type": lambda _context, _got: "must be a list",
    "frozen_set_type": lambda _context, _got: "must be a list",
    "int_type": lambda _context, got: f"must be a whole number, got {got!r}",
    "bool_type": lambda _context, got: f"must be true or false, got {got!r}",
    "string_type": lambda _context, got: f"must be text, got {got!r}; quote it if it is meant as text",
    "literal_error": lambda context, got: f"must be {context['expected'].replace(chr(39), '')}, got {got!r}",
    "greater_than_equal": lambda context, got: f"must be at least {context['ge']}, got {got}",
    "less_than_equal": lambda context, got: f"must be at most {context['le']}, got {got}",
}


def key_of(name: str, hint: Any) -> str:
    """The key in the file of a field, by its annotation."""
    return next((each.alias for each in extras_of(hint) if isinstance(each, FieldInfo) and each.alias), name)


def extras_of(hint: Any) -> tuple[Any, ...]:
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()
