"""Users by what operators look for: words, plan, status of the subscription, balance."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Select, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts.search import words_query
from gateway.ledger.accounts.users import User, has_email
from gateway.ledger.db.rows import Page, columns, ordered, page_by_offset, page_by_time
from gateway.ledger.db.tables import subscriptions, user_credits, users
from gateway.ledger.db.tables.accounts import WORDS
from gateway.ledger.db.tables.subscriptions import CURRENT_STATUSES
from policies.model import AccountStatus, SubscriptionStatus

SORTABLE = ("created_at", "email", "current_credits")


@dataclass(frozen=True, slots=True)
class ListedUser:
    """A user with the current subscription (None: none) and the balance, some seconds behind the calls."""

    user: User
    plan_id: str | None
    subscription_status: SubscriptionStatus | None
    current_credits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFilter:
    """None matches all. `words` are of address, name or company, or their beginnings."""

    email: str | None = None
    external_id: str | None = None
    words: str | None = None
    status: AccountStatus | None = None
    plan_id: str | None = None
    subscription_status: SubscriptionStatus | None = None


async def list_users(
    connection: AsyncConnection,
    wanted: UserFilter | None = None,
    *,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[ListedUser]:
    """Newest first; or by one of SORTABLE, descending with a leading `-`. Raises InvalidCursor."""
    query = _matching(wanted or UserFilter())
    if sort is None:
        return await page_by_time(connection, query, _listed, cursor=cursor, limit=limit)
    query = query.order_by(ordered(_KEYS[sort.removeprefix("-")], sort), users.c.id)
    return await page_by_offset(connection, query, _listed, cursor=cursor, limit=limit)


_KEYS: dict[str, Any] = {
    "created_at": users.c.created_at,
    "email": func.lower(users.c.email),
    "current_credits": func.coalesce(user_credits.c.current_credits, 0),
}
_OF_USER = frozenset(each.name for each in fields(User))
_HAS = (subscriptions.c.user_id == users.c.id) & subscriptions.c.status.in_(CURRENT_STATUSES)
_LISTED = (
    select(
        *columns(users, User),
        subscriptions.c.plan_id,
        subscriptions.c.status.label("subscription_status"),
        _KEYS["current_credits"].label("current_credits"),
    )
    .select_from(users.outerjoin(subscriptions, _HAS).outerjoin(user_credits, user_credits.c.user_id == users.c.id))
    .where(users.c.deleted_at.is_(None))
)


def _matching(wanted: UserFilter) -> Select[Any]:
    query = _LISTED
    for column, expected in (
        (users.c.external_id, wanted.external_id),
        (users.c.status, wanted.status),
        (subscriptions.c.plan_id, wanted.plan_id),
        (subscriptions.c.status, wanted.subscription_status),
    ):
        if expected is not None:
            query = query.where(column == expected)
    if wanted.email is not None:
        query = query.where(has_email(wanted.email))
    if wanted.words is not None:
        sought = func.to_tsquery(literal_column("'simple'"), words_query(wanted.words))
        query = query.where(literal_column(WORDS).op("@@")(sought))
    return query


def _listed(**row: Any) -> ListedUser:
    user = User(**{name: found for name, found in row.items() if name in _OF_USER})
    return ListedUser(user, **{name: found for name, found in row.items() if name not in _OF_USER})
