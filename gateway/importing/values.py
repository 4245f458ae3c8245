"""Turns values as drivers and other systems have them into those of this gateway. Each raises Unfit with the reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any
from uuid import UUID

from gateway.email_addresses import InvalidEmail, normalised

MAX_CREDITS = 10**12
MAX_NUMBER = 2**63 - 1
_MILLISECONDS_FROM = 10**11  # as seconds the year 5138
_TRUE, _FALSE = frozenset({"1", "true", "t", "yes", "y", "on"}), frozenset({"0", "false", "f", "no", "n", "off"})
_PROVIDER = re.compile(r"[a-z][a-z0-9_]*")
_HEX = re.compile(r"[0-9a-f]{64}")
_ASCII_WORD = re.compile(r"[!-~]+")
_SHOWN = 60
_TEXT_LENGTH, _LINE_LENGTH = 2000, 200

Convert = Callable[[Any], Any]


class Unfit(ValueError):  # noqa: N818 - named for the condition
    """A value that has no place here; the message says why."""


def shown(raw: object) -> str:
    """A value in a message, short; bytes are not shown."""
    if isinstance(raw, bytes | bytearray | memoryview):
        return f"{len(bytes(raw))} bytes"
    written = repr(str(raw))
    return written if len(written) <= _SHOWN else f"{written[:_SHOWN]}…'"


def text(raw: object) -> str:
    if isinstance(raw, bytes | bytearray | memoryview):
        try:
            raw = bytes(raw).decode()
        except UnicodeDecodeError:
            raise Unfit(f"is no text: {shown(raw)}") from None
    written = _plain(raw)
    if "\0" in written:
        raise Unfit("holds a NUL character")
    if len(written) > _TEXT_LENGTH:
        raise Unfit(f"is longer than {_TEXT_LENGTH} characters")
    try:
        written.encode()
    except UnicodeEncodeError:
        raise Unfit("is no UTF-8 text") from None
    return written


def line(raw: object) -> str:
    written = " ".join(text(raw).split())
    if not written.isprintable():
        raise Unfit("holds control characters")
    if len(written) > _LINE_LENGTH:
        raise Unfit(f"is longer than {_LINE_LENGTH} characters")
    return written


def email(raw: object) -> str:
    try:
        return normalised(text(raw))
    except InvalidEmail:
        raise Unfit(f"is no e-mail address: {shown(raw)}") from None


def whole(raw: object) -> int:
    number = decimal(raw)
    if number != number.to_integral_value():
        raise Unfit(f"is no whole number: {shown(raw)}")
    if abs(number) > MAX_NUMBER:
        raise Unfit(f"is too large: {shown(raw)}")
    return int(number)


def count(raw: object) -> int:
    number = whole(raw)
    if number < 0:
        raise Unfit(f"is negative: {number}")
    return number


def small_count(raw: object) -> int:
    number = count(raw)
    if number > 2**31 - 1:
        raise Unfit(f"is too large: {number}")
    return number


def credits(raw: object) -> int:
    """Whole, since books are; it may be a debt."""
    number = whole(raw)
    if abs(number) > MAX_CREDITS:
        raise Unfit(f"is beyond {MAX_CREDITS} credits: {number}")
    return number


def decimal(raw: object) -> Decimal:
    if isinstance(raw, bool):
        raise Unfit(f"is no number: {shown(raw)}")
    try:
        # A float by its shortest decimal: SQLite has no other fractions.
        number = raw if isinstance(raw, Decimal) else Decimal(repr(raw) if isinstance(raw, float) else _plain(raw))
    except InvalidOperation:
        raise Unfit(f"is no number: {shown(raw)}") from None
    if not number.is_finite() or abs(number) > MAX_NUMBER:
        raise Unfit(f"is no number that can be kept: {shown(raw)}")
    return number


def amount(raw: object) -> Decimal:
    number = decimal(raw)
    if number < 0:
        raise Unfit(f"is negative: {number}")
    return number


def moment(raw: object) -> datetime:
    """An instant; without an offset it is UTC. A number is seconds, or milliseconds, since 1970."""
    try:
        found = _moment(raw)
    except (ValueError, OverflowError, OSError):
        raise Unfit(f"is no time: {shown(raw)}") from None
    if not 1970 <= found.year < 9999:
        raise Unfit(f"is out of the calendar: {shown(raw)}")
    return found


def flag(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, bytes | bytearray) and len(raw) == 1:
        return raw != b"\x00"  # BIT(1) of MySQL
    written = _plain(raw).lower()
    if written in _TRUE or written in _FALSE:
        return written in _TRUE
    raise Unfit(f"is neither true nor false: {shown(raw)}")


def words(raw: object) -> tuple[str, ...]:
    """A list, as an array, as JSON, or separated by commas."""
    found: Any = raw
    if isinstance(raw, str):
        found = _json(raw) if raw.strip().startswith("[") else raw.split(",")
    if not isinstance(found, list | tuple):
        raise Unfit(f"is no list: {shown(raw)}")
    return tuple(dict.fromkeys(word for each in found if (word := line(each))))


def networks(raw: object) -> tuple[str, ...]:
    try:
        return tuple(str(ip_network(each, strict=False)) for each in words(raw))
    except ValueError:
        raise Unfit(f"is no list of addresses or CIDRs: {shown(raw)}") from None


def features(raw: object) -> dict[str, Any]:
    """A map of names and values, or a list of names."""
    found = _json(raw) if isinstance(raw, str) and raw.strip().startswith("{") else raw
    if isinstance(found, dict):
        if all(isinstance(each, bool | int | str) for each in found.values()):
            return {line(name): each for name, each in found.items()}
        raise Unfit("has a value that is no flag, whole number or text")
    return dict.fromkeys(words(raw), True)


def document(raw: object) -> dict[str, Any]:
    found = _json(raw) if isinstance(raw, str) else raw
    if not isinstance(found, dict):
        raise Unfit(f"is no JSON object: {shown(raw)}")
    try:
        written = json.dumps(found, default=str, ensure_ascii=False, allow_nan=False)
        written.encode()
    except UnicodeEncodeError:
        raise Unfit("is no UTF-8 text") from None
    except ValueError:
        raise Unfit("holds a number that JSON has no word for") from None
    if "\\u0000" in written:
        raise Unfit("holds a NUL character")
    return found


def currency(raw: object) -> str:
    code = _plain(raw).upper()
    if not re.fullmatch(r"[A-Z]{3}", code):
        raise Unfit(f"is no currency of ISO 4217: {shown(raw)}")
    return code


def provider(raw: object) -> str:
    """`Lemon Squeezy` and `lemon-squeezy` are lemon_squeezy."""
    name = re.sub(r"[^a-z0-9]+", "_", _plain(raw).lower()).strip("_")
    name = "lemon_squeezy" if name == "lemonsqueezy" else name
    if not _PROVIDER.fullmatch(name):
        raise Unfit(f"is no payment provider: {shown(raw)}")
    return name


def digest(raw: object) -> bytes:
    """32 bytes, as they are or in hexadecimal."""
    if isinstance(raw, bytes | bytearray | memoryview) and len(bytes(raw)) == 32:
        return bytes(raw)
    written = text(raw).strip().lower().removeprefix("sha256:")
    if not _HEX.fullmatch(written):
        raise Unfit("is no digest of 32 bytes in hexadecimal")
    return bytes.fromhex(written)


def token(raw: object) -> str:
    """Visible ASCII without spaces. No message shows it."""
    written = text(raw).strip()
    if not _ASCII_WORD.fullmatch(written):
        raise Unfit("holds other characters than visible ASCII")
    return written


def reference(raw: object) -> str:
    """How the key of another row is written, whatever its type: 7, 7.0 and '7' are one, bytes are hexadecimal."""
    if isinstance(raw, bytes | bytearray | memoryview):
        return bytes(raw).hex()  # such as BINARY(16) of MySQL
    if isinstance(raw, float | Decimal) and (number := decimal(raw)) == number.to_integral_value():
        raw = int(number)
    return text(raw).strip()


def one_of(known: type[Any] | frozenset[str], synonyms: dict[str, str] | None = None) -> Convert:
    """A converter to one of these words, whatever its case; `synonyms` are words of other systems."""
    accepted = known if isinstance(known, frozenset) else frozenset(str(each) for each in known)

    def convert(raw: object) -> str:
        written = _plain(raw).lower()
        word = (synonyms or {}).get(written, written)
        if word not in accepted:
            raise Unfit(f"is none of {', '.join(sorted(accepted))}: {shown(raw)}")
        return word

    return convert


def _plain(raw: object) -> str:
    if isinstance(raw, UUID | int | float | Decimal | str | IPv4Address | IPv6Address | IPv4Network | IPv6Network):
        return str(raw).strip()
    if isinstance(raw, datetime | date):
        return raw.isoformat()
    raise Unfit(f"is no plain value: {shown(raw)}")


def _moment(raw: object) -> datetime:
    if isinstance(raw, datetime):
        found = raw
    elif isinstance(raw, date):
        found = datetime(raw.year, raw.month, raw.day, tzinfo=UTC)
    elif isinstance(raw, int | float | Decimal) and not isinstance(raw, bool):
        number = float(raw)
        found = datetime.fromtimestamp(number / 1000 if abs(number) >= _MILLISECONDS_FROM else number, UTC)
    else:
        found = datetime.fromisoformat(_plain(raw))
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _json(raw: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise Unfit(f"is no JSON: {shown(raw)}") from None
