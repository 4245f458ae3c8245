"""What the ledger refuses, each with one clear sentence; constraint violations are given their meaning here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

# PostgreSQL, appendix A, class 23.
_UNIQUE_VIOLATION = "23505"
_CHECK_VIOLATION = "23514"
_NOT_NULL_VIOLATION = "23502"
_REFERENCE_VIOLATIONS = ("23503", "23001")  # by PostgreSQL 18 the second, where ON DELETE RESTRICT refuses


class NotFound(LookupError):  # noqa: N818 - an answer (404), not a fault
    """There is no such thing."""

    def __init__(self, entity: str, named: object) -> None:
        super().__init__(f"no {entity} {named}")
        self.entity = entity


class AlreadyExists(Exception):  # noqa: N818 - an answer (409), not a fault
    """Another row holds what must be unique. `constraint` names the rule, as `uq_users_email_lower`."""

    def __init__(self, entity: str, constraint: str) -> None:
        super().__init__(f"another {entity} already has this ({constraint})")
        self.entity = entity
        self.constraint = constraint


class InUse(Exception):  # noqa: N818 - an answer (409), not a fault
    """Other rows point to it."""


class InvalidValue(ValueError):  # noqa: N818 - an answer (422), not a fault
    """A CHECK of the schema says no. `constraint` names it, as `ck_subscription_plans_price_not_negative`."""

    def __init__(self, entity: str, constraint: str) -> None:
        super().__init__(f"this {entity} breaks the rule {constraint}")
        self.entity = entity
        self.constraint = constraint


@asynccontextmanager
async def checked(connection: AsyncConnection, entity: str) -> AsyncIterator[None]:
    """Gives constraint violations of the block their types; the transaction survives them."""
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
