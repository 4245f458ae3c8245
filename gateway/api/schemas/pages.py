"""Base models of requests and responses, and pages of lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.ledger.db.rows import CURSOR, Page, decode_cursor, encode_cursor

T = TypeVar("T")
Row = TypeVar("Row")


class RequestModel(BaseModel):
    """A body or query; an unknown field is refused, so that a misspelt one is not ignored in silence."""

    model_config = ConfigDict(extra="forbid")


class PatchModel(RequestModel):
    """The body of a PATCH: only the fields that it has are changed, to null too where null has a meaning."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"give at least one of {', '.join(type(self).model_fields)}")
        return self

    def changes(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class ResponseModel(BaseModel):
    """A response, read from the attributes of the same names of a row."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


Limit = Annotated[int, Field(ge=1, le=500, description="How many at most.")]
Cursor = Annotated[str | None, Field(pattern=CURSOR, description="`next_cursor` of the page before.")]


class PageQuery(RequestModel):
    """How many rows of a list, and from which cursor on."""

    limit: Limit = 50
    cursor: Cursor = None


class ShortListQuery(RequestModel):
    """As PageQuery, of a list that is one page where no limit is given."""

    limit: Annotated[int | None, Field(ge=1, le=500, description="How many at most; all where left out.")] = None
    cursor: Cursor = None


class PageModel(BaseModel, Generic[T]):
    """A page of a list, newest first; `next_cursor` is null on the last one."""

    data: list[T]
    next_cursor: str | None

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """`UserPage` for a page of `User`: the title of the schema in the OpenAPI document."""
        return f"{params[0].__name__}Page"


def page_of(page: Page[Row], render: Callable[[Row], T]) -> PageModel[T]:
    return PageModel(data=[render(row) for row in page.data], next_cursor=page.next_cursor)


def page_of_all(rows: Sequence[T], query: ShortListQuery) -> PageModel[T]:
    """The page of a list that was read as a whole; its cursor counts the rows before."""
    first = 0 if query.cursor is None else decode_cursor(query.cursor)
    end = len(rows) if query.limit is None else first + query.limit
    return PageModel(data=list(rows[first:end]), next_cursor=encode_cursor(end) if end < len(rows) else None)


def unset() -> Any:
    """The default of a field of a patch that may be absent but not null."""
    return Field(default=None, json_schema_extra=_without_default)


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)
