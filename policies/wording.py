"""Numbers, quotations and names in sentences for people."""

from __future__ import annotations

from decimal import Decimal
from unicodedata import category

# Unicode's categories of controls, formats, surrogates, lines and paragraphs. Emoji and Persian need the joiners.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"
MAX_LINE_CHARACTERS = 200


def counted(number: int | Decimal, noun: str) -> str:
    """`1 credit`, `2 credits`, `0.25 credits`."""
    text = f"{number.normalize():f}" if isinstance(number, Decimal) else str(number)
    return f"{text} {noun}" if number == 1 else f"{text} {noun}s"


def shortened(text: str, max_characters: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"


def is_printable(text: str) -> bool:
    """Whether it has no control characters, line ends or overrides of direction, as names in mails and logs need it."""
    return not any(category(character) in _INVISIBLE and character not in _JOINERS for character in text)
