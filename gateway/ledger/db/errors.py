"""Errors of the ledger, and their translation from constraint violations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

# PostgreSQL, appendix A, class 23.
_UNIQUE_VIOLATION = "23505"
_CHECK_VIOLATION = "23514"
_NOT_NULL_VIOLATION = "23502"
_REFERENCE_VIOLATIONS = ("23503", "23001")  # PostgreSQL 18 gives the second for ON DELETE RESTRICT


class NotFound(LookupError):  # noqa: N818 - a response (404), not a fault
    """The entity does not exist."""

    def __init__(self, entity: str, named: object) -> None:
        super().__init__(f"no {entity} {named}")
        self.entity = entity


class AlreadyExists(Exception):  # noqa: N818 - a response (409), not a fault
    """Another row has the unique value. `constraint` is its name, such as `uq_users_email_lower`."""

    def __init__(self, entity: str, constraint: str) -> None:
        super().__init__(f"another {entity} already has this ({constraint})")
        self.entity = entity
        self.constraint = constraint


class InUse(Exception):  # noqa: N818 - a response (409), not a fault
    """Other rows refer to the row, or its state forbids the change."""


class InvalidValue(ValueError):  # noqa: N818 - a response (422), not a fault
    """A CHECK failed. `constraint` is its name, such as `ck_subscription_plans_price_not_negative`."""

    def __init__(self, entity: str, constraint: str) -> None:
        super().__init__(f"this {entity} breaks the rule {constraint}")
        self.entity = entity
        self.constraint = constraint


@asynccontextmanager
async def checked(connection: AsyncConnection, entity: str) -> AsyncIterator[None]:
    """Translates constraint violations of the block; the transaction stays usable."""
    try:
        async with connection.begin_nested():
            yield
    except IntegrityError as error:
        cause = error.orig.__cause__ if error.orig is not None else None
        raise _typed(entity, cause) or error from error


def _typed(entity: str, cause: BaseException | None) -> Exception | None:
    code, constraint = getattr(cause, "sqlstate", None), getattr(cause, "constraint_name", None) or ""
    if code == _UNIQUE_VIOLATION:
        return AlreadyExists(entity, constraint)
    if code == _CHECK_VIOLATION:
        return InvalidValue(entity, constraint)
    if code == _NOT_NULL_VIOLATION:
        return InvalidValue(entity, f"{getattr(cause, 'column_name', '')} is required")
    if code in _REFERENCE_VIOLATIONS:
        return InUse(f"this {entity} is still referred to, or refers to nothing ({constraint})")
    return None
