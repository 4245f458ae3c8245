"""Types of fields in requests, each validated as far as possible without the database."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from decimal import Decimal
from functools import cache, partial
from ipaddress import ip_network
from math import isfinite
from typing import Annotated, Any
from zoneinfo import available_timezones

from fastapi import Query
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
)
from pydantic_core.core_schema import (
    CoreSchema,
    no_info_after_validator_function,
    no_info_wrap_validator_function,
)

from gateway import email_addresses
from gateway.clock import now
from gateway.email_addresses import MAX_CHARACTERS
from policies.billing.money import CURRENCIES
from policies.billing.periods import LONGEST_TRIAL_DAYS
from policies.wording import MAX_LINE_CHARACTERS, is_printable, shortened

# RFC 3339 section 5.6, with the offset that makes it one instant.
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MAX_METADATA_BYTES = 16 * 1024
_MAX_LINES = 8
_MAX_FEATURE_CHARACTERS = 200
_MAX_QUOTED_CHARACTERS = 60
_MAX_METADATA_DEPTH = 32  # far below the recursion limit of Python, so that stored metadata can be rendered
# Scripts compute in doubles, exact up to 2**53 (9e15): thousands of movements of this size still add up.
MAX_CREDITS = 10**12
# No currency of ISO 4217 has more than 4 decimal places; 18 digits in all are what the columns hold.
AMOUNT_PLACES = 4
MAX_AMOUNT = 10**14
_NOISE = Decimal(2) ** -50  # a few steps of a double, whose fraction has 52 bits
_IPV4 = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)){3}"
_IPV6 = r"([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|([0-9a-f]{1,4}:){1,6}:|:(:[0-9a-f]{1,4}){1,6}|::"


@dataclass(frozen=True, slots=True)
class _Shape:
    """A pattern for the OpenAPI document, with a message in words."""

    pattern: re.Pattern[str]
    wanted: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^{self.pattern.pattern}$"}

    def _checked(self, text: str) -> str:
        if not self.pattern.fullmatch(text):
            raise ValueError(self.wanted)
        return text


def _shaped(pattern: str, wanted: str) -> _Shape:
    return _Shape(re.compile(pattern), wanted)


@dataclass(frozen=True, slots=True)
class _OneOf:
    """One message for a union; pydantic has one for each member, at a place named after its own validators."""

    wanted: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_wrap_validator_function(self._checked, handler(source))

    def _checked(self, written: object, validate: ValidatorFunctionWrapHandler) -> object:
        try:
            return validate(written)
        except ValidationError:
            raise ValueError(f"{self.wanted}, got {_quoted(written)}") from None


def _quoted(written: object) -> str:
    if isinstance(written, dict | list):
        return "an object" if isinstance(written, dict) else "a list"
    return shortened(json.dumps(written), _MAX_QUOTED_CHARACTERS)


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold NUL characters")  # PostgreSQL's text cannot
    return text


def _printable(text: str) -> str:
    if not is_printable(text):
        raise ValueError("must not hold control characters or line breaks")
    return text


def _printable_lines(text: str) -> str:
    """At most eight lines, each printable."""
    lines = [_printable(line.strip()) for line in text.splitlines()]
    if len(lines) > _MAX_LINES:
        raise ValueError(f"may have {_MAX_LINES} lines at most, has {len(lines)}")
    return "\n".join(lines)


def _json(found: dict[str, Any]) -> dict[str, Any]:
    _each_storable(found, depth=1)
    try:
        size = len(json.dumps(found, allow_nan=False, ensure_ascii=False).encode())
    except ValueError:
        raise ValueError("must be proper JSON: finite numbers, and text of whole Unicode characters") from None
    if size > _MAX_METADATA_BYTES:
        raise ValueError(f"may hold {_MAX_METADATA_BYTES} bytes at most, has {size}")
    return found


def _each_storable(found: object, *, depth: int) -> None:
    if depth > _MAX_METADATA_DEPTH:
        raise ValueError(f"may nest {_MAX_METADATA_DEPTH} deep at most")
    if isinstance(found, str):
        _storable(found)
    elif isinstance(found, dict):
        for name, value in found.items():
            _storable(name)
            _each_storable(value, depth=depth + 1)
    elif isinstance(found, list):
        for value in found:
            _each_storable(value, depth=depth + 1)


def _parse_instant(written: object) -> object:
    """Accepts text only: pydantic would read a number as seconds since 1970. A date begins at midnight in UTC."""
    if isinstance(written, datetime) or (isinstance(written, str) and _INSTANT.fullmatch(written)):
        return written
    if isinstance(written, str) and _DATE.fullmatch(written):
        return f"{written}T00:00:00Z"
    raise ValueError("must be a time as 2026-01-31T12:00:00Z, or with another offset than Z, or a date as 2026-01-31")


def _utc(instant: datetime) -> datetime:
    # A year from either end of the calendar, so that offsets cannot overflow it.
    if not MINYEAR < instant.year < MAXYEAR:
        raise ValueError("is out of the calendar")
    return instant.astimezone(UTC)


def _in_future(instant: datetime) -> datetime:
    if instant <= now():
        raise ValueError("must be in the future")
    return instant


def _network(written: str) -> str:
    """The network without bits beyond its prefix, as PostgreSQL and nginx read it."""
    if "%" in written:
        raise ValueError("must be an address or a CIDR without a zone, which names an interface of one machine")
    try:
        return str(ip_network(written, strict=False))
    except ValueError as error:
        raise ValueError(f"must be an address or a CIDR: {error}") from None


def _time_zone(name: str) -> str:
    known = _time_zones()
    if known and name not in known:
        raise ValueError("must be an IANA time zone, as Europe/Berlin")
    return name


def _currency_in_use(code: str) -> str:
    if code not in CURRENCIES:
        raise ValueError("must be a currency of ISO 4217, as USD")
    return code


@cache
def _time_zones() -> frozenset[str]:
    """Empty without a time zone database; then any name passes."""
    return frozenset(available_timezones())


def _exact(written: object, *, places: int) -> object:
    """Reads a JSON number as its shortest decimal, without the noise of binary fractions beyond the last place."""
    if not isinstance(written, float) or not isfinite(written) or abs(written) >= MAX_AMOUNT:
        return written
    exact = Decimal(repr(written))
    rounded = round(exact, places)
    return rounded if 0 < abs(exact - rounded) < abs(exact) * _NOISE else exact


def _whole(written: object) -> object:
    """5.0 is the integer 5, as JSON Schema has it (2020-12 Core, section 4.2.1)."""
    return int(written) if isinstance(written, float) and written.is_integer() else written


_STRICT = Field(strict=True)
_WHOLE = BeforeValidator(_whole)
Storable = AfterValidator(_storable)

Line = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_LINE_CHARACTERS),
    AfterValidator(_printable),
]
Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000), Storable]
Lines = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500), AfterValidator(_printable_lines)
]
Word = Annotated[
    str,
    _shaped(
        r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}",
        "must be 1 to 64 letters, digits and ._:-, a letter or digit first",
    ),
]
# The pattern for programs names the ASCII form of domains, into which others are turned.
Email = Annotated[
    str,
    StringConstraints(max_length=MAX_CHARACTERS),
    AfterValidator(email_addresses.normalised),
    WithJsonSchema({"type": "string", "maxLength": MAX_CHARACTERS, "pattern": f"^{email_addresses.PATTERN}$"}),
]
# To find an account by: nobody who registered under an earlier rule is kept out.
LookupEmail = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_CHARACTERS), Storable, AfterValidator(email_addresses.looked_up)
]
TimeZone = Annotated[
    str,
    StringConstraints(max_length=64),
    AfterValidator(_time_zone),
    Field(description="A name of the IANA time zone database.", examples=["Europe/Berlin"]),
]
# Of a date it is the midnight in UTC with which the day begins.
Instant = Annotated[
    AwareDatetime,
    BeforeValidator(_parse_instant),
    AfterValidator(_utc),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "format": "date"}]}),
]
FutureInstant = Annotated[Instant, AfterValidator(_in_future)]
Network = Annotated[
    str,
    StringConstraints(max_length=64),
    AfterValidator(_network),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "format": "ipv4"},
                {"type": "string", "format": "ipv6"},
                {"type": "string", "pattern": f"^{_IPV4}/(3[0-2]|[12]?\\d)$"},
                {"type": "string", "pattern": f"^({_IPV6})/(12[0-8]|1[01]\\d|[1-9]?\\d)$"},
            ]
        }
    ),
]
Metadata = Annotated[dict[str, Any], AfterValidator(_json)]
Flag = Annotated[bool, _STRICT]
# Limits are kept in 32 bits, sizes and credits in 64 (PostgreSQL's integer and bigint); beyond 2**53 not every reader
# of JSON tells two numbers apart (RFC 8259 section 6).
MAX_SIZE = 2**53 - 1
Count = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1), _WHOLE]
PositiveCount = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1), _WHOLE]
WholePercent = Annotated[int, Field(strict=True, ge=1, le=100), _WHOLE]
CouponPeriods = Annotated[int, Field(strict=True, ge=1, le=120), _WHOLE]
TrialDays = Annotated[int, Field(strict=True, ge=0, le=LONGEST_TRIAL_DAYS), _WHOLE]
Size = Annotated[int, Field(strict=True, ge=0, le=MAX_SIZE), _WHOLE]
PositiveSize = Annotated[int, Field(strict=True, ge=1, le=MAX_SIZE), _WHOLE]
Priority = Annotated[int, Field(strict=True, ge=0, le=32767), _WHOLE]  # a smallint
Credits = Annotated[int, Field(strict=True, ge=0, le=MAX_CREDITS), _WHOLE]
PositiveCredits = Annotated[int, Field(strict=True, ge=1, le=MAX_CREDITS), _WHOLE]
SignedCredits = Annotated[
    int,
    Field(strict=True, ge=-MAX_CREDITS, le=MAX_CREDITS),
    _WHOLE,
    WithJsonSchema({"type": "integer", "minimum": -MAX_CREDITS, "maximum": MAX_CREDITS, "not": {"const": 0}}),
]
FeatureName = Annotated[
    str,
    _shaped(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
        "must be a name of 1 to 64 letters, digits and ._-, a letter or digit first",
    ),
]
FeatureSetting = Annotated[
    Flag | Count | Annotated[str, StringConstraints(max_length=_MAX_FEATURE_CHARACTERS), Storable],
    Field(union_mode="left_to_right"),
    _OneOf(
        f"must be true, false, a whole number from 0 to {2**31 - 1}, "
        f"or text of at most {_MAX_FEATURE_CHARACTERS} characters without NUL"
    ),
]
Price = Annotated[
    Decimal,
    BeforeValidator(partial(_exact, places=AMOUNT_PLACES)),
    Field(ge=0, max_digits=18, decimal_places=AMOUNT_PLACES),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\d{1,14}(\.\d{1,4})?$"},
                {"type": "number", "minimum": 0, "exclusiveMaximum": MAX_AMOUNT, "multipleOf": 10**-AMOUNT_PLACES},
            ]
        }
    ),
]
Rate = Annotated[
    Decimal,
    BeforeValidator(partial(_exact, places=6)),
    Field(ge=0, le=1, decimal_places=6),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^(0(\.\d{1,6})?|1(\.0{1,6})?)$"},
                {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 10**-6},
            ]
        }
    ),
]
Percent = Annotated[
    Decimal,
    BeforeValidator(partial(_exact, places=2)),
    Field(gt=0, le=100, decimal_places=2),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^([1-9]\d?(\.\d{1,2})?|0\.(\d[1-9]|[1-9])|100)$"},
                {"type": "number", "exclusiveMinimum": 0, "maximum": 100, "multipleOf": 0.01},
            ]
        }
    ),
]
Currency = Annotated[
    str, _shaped(r"[A-Z]{3}", "must be a currency of ISO 4217, as USD"), AfterValidator(_currency_in_use)
]
CouponCode = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40), AfterValidator(_printable)
]
CouponInQuery = Annotated[CouponCode | None, Query(description="A coupon, where the body has none.")]
