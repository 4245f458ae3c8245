"""The shapes that all nouns share: what is given, what is shown, a list and how far into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.ledger.db.rows import CURSOR, Page

T = TypeVar("T")
Row = TypeVar("Row")


class RequestModel(BaseModel):
    """A request's body or query: fields it does not know are refused, so that a misspelt one is not lost in silence."""

    model_config = ConfigDict(extra="forbid")


class PatchModel(RequestModel):
    """A change: only the fields that are given are touched, null included where it means something."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"give at least one of {', '.join(type(self).model_fields)}")
        return self

    def changes(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class ResponseModel(BaseModel):
    """What an answer shows, read from the row's attributes of the same names."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class PageQuery(RequestModel):
    """How much of a list, and from where."""

    limit: Annotated[int, Field(ge=1, le=500, description="How many at most.")] = 50
    cursor: Annotated[str | None, Field(pattern=CURSOR, description="`next_cursor` of the page before.")] = None


class PageModel(BaseModel, Generic[T]):
    """A page of a list, newest first; `next_cursor` is null on the last one."""

    data: list[T]
    next_cursor: str | None


def page_of(page: Page[Row], shown: Callable[[Row], T]) -> PageModel[T]:
    return PageModel(data=[shown(row) for row in page.data], next_cursor=page.next_cursor)


def unset() -> Any:
    """The default of a field of a patch that may be left out but not be null."""
    return Field(default=None, json_schema_extra=_without_default)


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)
