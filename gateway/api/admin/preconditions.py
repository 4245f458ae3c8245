"""`ETag` and `If-Match`: of two operators who change the same object, the later one does not undo what it never saw."""

from __future__ import annotations

import hashlib
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Response
from pydantic import BaseModel

from gateway.api.errors import PreconditionFailed
from gateway.api.openapi import Responses, problem_of

STALE: Responses = {412: problem_of("`precondition_failed`: it is not the object that `If-Match` names any more")}

# What changes without a change of the object, or is told in some answers only.
_NOT_COUNTED = {"discounts", "last_used_at", "price_differences", "redeemed", "subscription", "updated_at"}

Shown = TypeVar("Shown", bound=BaseModel)


class Precondition:
    """Of one request: what it expects of the object, and the tag of the object that is answered with."""

    def __init__(self, expected: str | None, response: Response) -> None:
        self._expected = expected
        self._response = response

    def check(self, current: BaseModel) -> None:
        """`current` is locked. Raises PreconditionFailed where If-Match names none of its tags."""
        if self._expected is None or self._expected.strip() == "*":
            return
        if etag_of(current) not in (each.strip() for each in self._expected.split(",")):
            raise PreconditionFailed("This is not the object that you read any more: read it again, then change it.")

    def tagged(self, shown: Shown) -> Shown:
        """The object, whose tag the answer carries."""
        self._response.headers["etag"] = etag_of(shown)
        return shown


def etag_of(shown: BaseModel) -> str:
    body = shown.model_dump_json(exclude=_NOT_COUNTED)
    return f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'


def _precondition(
    response: Response,
    if_match: Annotated[
        str | None, Header(description="The `ETag` of the object as you read it: 412 if it has changed since.")
    ] = None,
) -> Precondition:
    return Precondition(if_match, response)


def _tagging(response: Response) -> Precondition:
    return Precondition(None, response)


PreconditionDep = Annotated[Precondition, Depends(_precondition)]
TaggingDep = Annotated[Precondition, Depends(_tagging)]
