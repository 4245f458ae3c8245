"""Forms: what was sent, what is wrong with it by the rules of the API, and what to show again."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import date
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from gateway.api import error_responses
from gateway.api.error_responses import ErrorResponse
from gateway.http.problem_types import PROBLEM_TYPES
from gateway.web.wording import sentence

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

MAX_FIELDS = 200
# Commas and spaces group digits, by three or as in India; `12,5` is no whole number.
_BETWEEN_DIGITS = re.compile("[, \u202f]")
_WHOLE = re.compile("-?(?:[0-9]+|[0-9]{1,3}(?:[, \u202f][0-9]{2,3})*[, \u202f][0-9]{3})")


class AddressRefused(Exception):  # noqa: N818 - an answer (422), not a fault
    """The query of an address does not do; `refusal` is what the API would answer."""

    def __init__(self, error: ValidationError) -> None:
        super().__init__("the address cannot be read")
        self.refusal = _refusal_of(error)


def in_address(model: type[M], values: Mapping[str, object]) -> M:
    """What the query of an address says. Raises AddressRefused."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise AddressRefused(error) from None


def end_of_day(day: str) -> str:
    """The last second of a day in UTC; what is no day comes as it was written, for the API to refuse."""
    try:
        return f"{date.fromisoformat(day).isoformat()}T23:59:59Z"
    except ValueError:
        return day


class Form:
    """The fields of a form, by name. Values that are empty count as left out.

    After `submit`, `errors` has a message by field, and `message` is what concerns no field; a template shows them.
    """

    def __init__(self, values: Mapping[str, list[str]] | None = None, *, defaults: Mapping[str, object] | None = None):
        self._values = dict(values or {})
        self._defaults = dict(defaults or {})
        self.is_sent = values is not None
        self.errors: dict[str, str] = {}
        self.message: str | None = None
        self.status = 200

    def raw(self, name: str) -> str:
        """As it was sent, a password for instance."""
        return self._values.get(name, [""])[0]

    def encoded(self, *, without: Collection[str]) -> str:
        """All that was sent, in one order."""
        fields = sorted(each for each in self._values.items() if each[0] not in without)
        return urlencode(fields, doseq=True)

    def text(self, name: str) -> str | None:
        return self.raw(name).strip() or None

    def required(self, name: str) -> str:
        """Text that the API refuses where it is empty."""
        return self.raw(name).strip()

    def whole(self, name: str) -> int | str | None:
        """A whole number; what is none comes as it was written, for the API to refuse."""
        written = self.text(name)
        if written is None:
            return None
        digits = _BETWEEN_DIGITS.sub("", written)
        return int(digits) if _WHOLE.fullmatch(written) and len(digits) <= 20 else written

    def listed(self, name: str) -> list[str]:
        """The values of checkboxes, or the words of a text, each by a space, comma or line."""
        return [word for value in self._values.get(name, ()) for word in value.replace(",", " ").split()]

    def is_checked(self, name: str) -> bool:
        return bool(self.raw(name)) if self.is_sent else bool(self._defaults.get(name))

    def shown(self, name: str) -> str:
        """What stands in the field: what was sent, before that its default."""
        if self.is_sent:
            return self.raw(name)
        default = self._defaults.get(name)
        return "" if default is None else str(default)

    def error(self, name: str) -> str | None:
        """Of the field, or of a member of it: `allowed_ips.0` is an error of `allowed_ips`."""
        return next((text for field, text in self.errors.items() if field.partition(".")[0] == name), None)

    async def submit(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """What the function of the API gives; None where it refuses, and the form says why."""
        try:
            return await call()
        except ValidationError as error:
            self._refuse(_refusal_of(error))
        except AddressRefused as error:
            self._refuse(error.refusal)
        except error_responses.ANSWERED as error:
            self._refuse(error_responses.refusal_of(error))
        return None

    def blame(self, shown: Mapping[str, str]) -> None:
        """Has errors of fields of the API stand at the fields of the form that they were made of."""
        self.errors = {shown.get(field, field): text for field, text in self.errors.items()}

    def refuse(self, field: str, message: str) -> None:
        self._refuse(error_responses.invalid(field, message))

    def _refuse(self, refusal: ErrorResponse) -> None:
        errors = refusal.extras.get("errors") or ()
        self.status = PROBLEM_TYPES[refusal.code].status
        self.errors = {each["field"]: sentence(each["message"]) for each in errors}  # type: ignore[attr-defined]
        self.message = None if self.errors else refusal.detail


def _refusal_of(error: ValidationError) -> ErrorResponse:
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    return error_responses.of_errors([{**each, "loc": ("body", *each["loc"])} for each in errors])


async def read_form(request: Request) -> Form:
    """The urlencoded body of a request, whose size the server bounds. Raises HTTPException(413) for too many fields."""
    body = (await request.body()).decode("utf-8", "replace")
    values: dict[str, list[str]] = {}
    try:
        fields = parse_qsl(body, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise HTTPException(413) from None
    for name, value in fields:
        values.setdefault(name, []).append(value)
    return Form(values)
