"""JSON Pointers (RFC 6901), resolved in parsed documents."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

_INDEX = re.compile("0|[1-9][0-9]*")  # RFC 6901, section 4: ASCII digits without leading zeros


class Absent(Enum):
    ABSENT = "nothing"


ABSENT: Final = Absent.ABSENT


def resolve(document: Any, pointer: str) -> Any:
    """The value at a pointer, or ABSENT."""
    value = document
    for token in parts(pointer):
        if isinstance(value, dict) and token in value:
            value = value[token]
        elif isinstance(value, list) and _INDEX.fullmatch(token) and int(token) < len(value):
            value = value[int(token)]
        else:
            return ABSENT
    return value


def resolve_first(document: Any, pointers: Iterable[str]) -> Any:
    """The value at the first pointer that resolves, or ABSENT."""
    return next((found for pointer in pointers if (found := resolve(document, pointer)) is not ABSENT), ABSENT)


def parts(pointer: str) -> tuple[str, ...]:
    """The names on the way to the value, unescaped."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])
