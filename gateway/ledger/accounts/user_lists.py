"""Users by what operators look for: words, plan, status of the subscription, balance."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts.search import words_query
from gateway.ledger.accounts.users import User, has_email
from gateway.ledger.db.rows import Page, columns, decode_cursor, newest_after, ordered, page_by_offset, page_by_time
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
    """None matches all but the words: those of address, name or company, or their beginnings."""

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
    wanted = wanted or UserFilter()
    query = _matching(wanted)
    if wanted.words is None:
        return await _page(connection, query, sort=sort, cursor=cursor, limit=limit)
    has_words = _has_words(wanted.words)
    if sort is not None and sort.removeprefix("-") not in _WALKED:
        return await _page(connection, query.where(has_words), sort=sort, cursor=cursor, limit=limit)
    among_first = select(_first(query, sort, cursor=cursor).subquery()).where(has_words)
    page = await _page(connection, among_first, sort=sort, cursor=cursor, limit=limit)
    if page.next_cursor is not None:
        return page
    found = select(query.where(has_words).cte("found").prefix_with("MATERIALIZED"))
    return await _page(connection, found, sort=sort, cursor=cursor, limit=limit)


# A common word is one of many of the first accounts, so it is looked for among so many of them: the index would collect
# all that have it. For a rare one the index is asked before anything is ordered. Left to choose, PostgreSQL walks the
# accounts in order until a page is full, since it takes any word to be in one account of 200.
# Where no index has the order, it sorts what the index of words gives.
_WALKED = ("email",)
_FIRST, _MOST_PASSED = 2000, 1_000_000


def _first(query: Select[Any], sort: str | None, *, cursor: str | None) -> Select[Any]:
    if sort is None:
        return newest_after(query, cursor).limit(_FIRST)
    passed = 0 if cursor is None else decode_cursor(cursor)
    return _in_order(query, sort).limit(_FIRST + 2 * min(passed, _MOST_PASSED))


async def _page(
    connection: AsyncConnection, query: Select[Any], *, sort: str | None, cursor: str | None, limit: int
) -> Page[ListedUser]:
    if sort is None:
        return await page_by_time(connection, query, _listed, cursor=cursor, limit=limit)
    return await page_by_offset(connection, _in_order(query, sort), _listed, cursor=cursor, limit=limit)


def _in_order(query: Select[Any], sort: str) -> Select[Any]:
    name = sort.removeprefix("-")
    key = query.selected_columns[name]
    return query.order_by(ordered(func.lower(key) if name == "email" else key, sort), query.selected_columns["id"])


_OF_USER = frozenset(each.name for each in fields(User))
_HAS = (subscriptions.c.user_id == users.c.id) & subscriptions.c.status.in_(CURRENT_STATUSES)
_LISTED = (
    select(
        *columns(users, User),
        subscriptions.c.plan_id,
        subscriptions.c.status.label("subscription_status"),
        func.coalesce(user_credits.c.current_credits, 0).label("current_credits"),
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
    return query


def _has_words(words: str) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = literal_column(WORDS).op("@@", is_comparison=True)(
        func.to_tsquery(literal_column("'simple'"), words_query(words))
    )
    return condition


def _listed(**row: Any) -> ListedUser:
    user = User(**{name: found for name, found in row.items() if name in _OF_USER})
    return ListedUser(user, **{name: found for name, found in row.items() if name not in _OF_USER})
