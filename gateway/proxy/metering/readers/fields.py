"""Values of a request, each of the kind that its API takes: what only some servers would take is refused.

A server that reads `"stream": "true"` as true would stream where the gateway expects one document.
"""

from __future__ import annotations

from gateway.proxy.metering.documents.selection import Fields
from gateway.proxy.metering.strict_json import invalid_body
from policies.usage.counts import MAX_COUNT


def text(fields: Fields, name: str) -> str | None:
    """Raises Refused unless the value is a string, or absent."""
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value or None
    raise invalid_body(f"{name!r} must be a string.")


def flag(fields: Fields, name: str, *, default: bool = False) -> bool:
    """Raises Refused unless the value is true, false, or absent."""
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    raise invalid_body(f"{name!r} must be true or false.")


def limit(fields: Fields, *names: str) -> int | None:
    """The largest of several limits, since servers differ in which they obey; a negative one is none.

    Raises Refused unless each value is a whole number, or absent.
    """
    limits = [value for name in names if name in fields and (value := _whole(fields, name)) is not None]
    return max(limits) if limits and min(limits) >= 0 else None


def answers(fields: Fields, *names: str) -> int:
    """How many answers are asked for: the largest of several counts, at least one.

    Raises Refused unless each value is a whole number, or absent.
    """
    most = 1
    for name in names:
        if name in fields and (value := _whole(fields, name)) is not None and value > most:
            most = value
    return most


def _whole(fields: Fields, name: str) -> int | None:
    value = fields.get(name)
    if value is None or (type(value) is int and -MAX_COUNT <= value <= MAX_COUNT):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= MAX_COUNT or value != int(value):
        raise invalid_body(f"{name!r} must be a whole number.")
    return int(value)
