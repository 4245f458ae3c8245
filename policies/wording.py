"""Numbers and quotations in sentences for people."""

from __future__ import annotations

from decimal import Decimal


def counted(number: int | Decimal, noun: str) -> str:
    """`1 credit`, `2 credits`, `0.25 credits`."""
    text = f"{number.normalize():f}" if isinstance(number, Decimal) else str(number)
    return f"{text} {noun}" if number == 1 else f"{text} {noun}s"


def shortened(text: str, max_characters: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"
