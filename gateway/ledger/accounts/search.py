"""Finds what an operator has in hand: part of an address, an end of a key, an id, a number of an invoice.

Every statement is answered from an index, whatever the number of accounts and calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables.accounts import WORDS
from gateway.ledger.usage.history import span_of
from policies.billing.providers import PROVIDERS

# A shorter word begins too many others.
MIN_WORD = 3
LAST4 = 4
_WORD = re.compile(r"[^\W_]+")
_MAX_NUMBER = 2**63 - 1


class Kind(StrEnum):
    ACCOUNT = "account"
    KEY = "key"
    CALL = "call"
    SUBSCRIPTION = "subscription"
    INVOICE = "invoice"
    PAYMENT = "payment"
    WEBHOOK_EVENT = "webhook_event"


@dataclass(frozen=True, slots=True)
class Hit:
    """What was found, and whose it is; `title` names it for people, `detail` says more."""

    kind: Kind
    id: UUID
    user_id: UUID | None
    title: str
    detail: str
    created_at: datetime


async def find(connection: AsyncConnection, wanted: str, *, limit: int = 10) -> list[Hit]:
    """At most `limit` hits of each kind of clue, without repetitions; exact ones come first.

    Of a deleted account there are its calls, invoices and payments, but not its keys and subscriptions, which are only
    shown with the account.
    """
    hits: dict[tuple[Kind, UUID], Hit] = {}
    for kind, statement, values in _clues(wanted.strip()):
        rows = (await connection.execute(statement, {**values, "limit": limit})).all()
        for row in sorted(rows, key=lambda row: row.created_at, reverse=True):
            hits.setdefault((kind, row.id), Hit(kind, row.id, row.user_id, row.title, row.detail, row.created_at))
    return list(hits.values())


def words_query(wanted: str) -> str:
    """For `to_tsquery`: all the words, or their beginnings. Empty, which matches nothing, where they are too short."""
    words = [word for word in _WORD.findall(wanted.lower()) if len(word) >= MIN_WORD]
    return " & ".join(f"{word}:*" for word in words)


def _clues(wanted: str) -> Iterator[tuple[Kind, TextClause, Mapping[str, Any]]]:
    """The statements that what was typed can be an answer to."""
    try:
        yield from _of_id(UUID(wanted), typed=wanted)
    except ValueError:
        yield from _of_text(wanted)


def _of_id(wanted: UUID, *, typed: str) -> Iterator[tuple[Kind, TextClause, Mapping[str, Any]]]:
    values = {"id": wanted}
    yield Kind.ACCOUNT, _USER_BY_ID, values
    yield Kind.KEY, _KEY_BY_ID, values
    yield Kind.SUBSCRIPTION, _SUBSCRIPTION_BY_ID, values
    yield Kind.INVOICE, _INVOICE_BY_ID, values
    yield Kind.PAYMENT, _PAYMENT_BY_ID, values
    yield Kind.WEBHOOK_EVENT, _EVENT_BY_ID, values
    for external_id in dict.fromkeys((typed, str(wanted))):  # which another system may write without dashes
        yield Kind.ACCOUNT, _USER_BY_EXTERNAL_ID, {"wanted": external_id}
    if (span := span_of(wanted)) is not None:
        yield Kind.CALL, _CALL_BY_ID, {**values, "since": span[0], "until": span[1]}


def _of_text(wanted: str) -> Iterator[tuple[Kind, TextClause, Mapping[str, Any]]]:
    exact = {"wanted": wanted}
    yield Kind.ACCOUNT, _USER_BY_EMAIL, exact
    yield Kind.ACCOUNT, _USER_BY_EXTERNAL_ID, exact
    yield Kind.INVOICE, _INVOICE_BY_NUMBER, exact | {"number": _number(wanted)}
    by_provider = exact | {"providers": [*PROVIDERS, "manual"]}
    yield Kind.SUBSCRIPTION, _SUBSCRIPTION_OF_PROVIDER, by_provider
    yield Kind.INVOICE, _INVOICE_OF_PROVIDER, by_provider
    yield Kind.PAYMENT, _PAYMENT_OF_PROVIDER, by_provider
    yield Kind.WEBHOOK_EVENT, _EVENT_OF_PROVIDER, by_provider
    yield Kind.ACCOUNT, _USER_OF_PROVIDER, by_provider
    if len(wanted) == LAST4:
        yield Kind.KEY, _KEY_BY_LAST4, exact
    if "_" in wanted:
        yield Kind.KEY, _KEY_BY_PREFIX, {"like": _escaped(wanted) + "%"}
    if words := words_query(wanted):
        yield Kind.ACCOUNT, _USER_BY_WORDS, {"words": words}


def _number(wanted: str) -> int | None:
    return int(wanted) if wanted.isascii() and wanted.isdigit() and int(wanted) <= _MAX_NUMBER else None


def _escaped(wanted: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", wanted)


_USER = """
    SELECT id, id AS user_id, email AS title, concat_ws(', ', name, company, status) AS detail, created_at
      FROM users WHERE deleted_at IS NULL AND
"""
_KEY = """
    SELECT id, user_id, prefix || '…' || last4 AS title, concat_ws(', ', name, status) AS detail, created_at
      FROM api_keys WHERE EXISTS (SELECT FROM users u WHERE u.id = api_keys.user_id AND u.deleted_at IS NULL) AND
"""
_SUBSCRIPTION = """
    SELECT id, user_id, coalesce(provider_subscription_id, id::text) AS title,
           concat_ws(', ', plan_id, status) AS detail, created_at
      FROM subscriptions
     WHERE EXISTS (SELECT FROM users u WHERE u.id = subscriptions.user_id AND u.deleted_at IS NULL) AND
"""
_INVOICE = """
    SELECT id, user_id, coalesce(full_number, provider_number, id::text) AS title,
           concat_ws(', ', total || ' ' || currency, status) AS detail, created_at
      FROM invoices WHERE
"""
_PAYMENT = """
    SELECT id, user_id, coalesce(provider_payment_id, id::text) AS title,
           concat_ws(', ', transaction_type, amount || ' ' || currency, status) AS detail, created_at
      FROM payment_transactions WHERE
"""
_EVENT = """
    SELECT id, NULL::uuid AS user_id, provider_event_id AS title, concat_ws(', ', event_type, status) AS detail,
           created_at
      FROM webhook_events WHERE
"""
_CALL = """
    SELECT request_id AS id, user_id, endpoint || coalesce(' ' || model, '') AS title,
           concat_ws(', ', outcome, credits_charged || ' credits') AS detail, created_at
      FROM usage_tracking WHERE
"""


def _where(selected: str, condition: str) -> TextClause:
    return text(f"{selected} {condition} LIMIT :limit")


_USER_BY_ID = _where(_USER, "id = :id")
_USER_BY_EMAIL = _where(_USER, "lower(email) = lower(:wanted)")
_USER_BY_EXTERNAL_ID = _where(_USER, "external_id = :wanted")
# Left to choose, PostgreSQL reads every account for a word that none has: it takes any to be in one of fifty.
# A common word is one of many of the newest accounts; the index answers for a rare one alone, since of a common one
# it would first collect them all.
_USER_BY_WORDS = text(f"""
    WITH recent AS MATERIALIZED (
         SELECT id FROM (SELECT * FROM users WHERE deleted_at IS NULL ORDER BY created_at DESC, id DESC LIMIT 2000) u
          WHERE {WORDS} @@ to_tsquery('simple', :words) LIMIT :limit),
     matching AS MATERIALIZED (
         SELECT id FROM users
          WHERE deleted_at IS NULL AND {WORDS} @@ to_tsquery('simple', :words)
            AND (SELECT count(*) FROM recent) < :limit)
    {_USER} id IN (SELECT id FROM recent UNION ALL SELECT id FROM matching) ORDER BY created_at DESC LIMIT :limit
""")  # noqa: S608 - made of constants
_USER_OF_PROVIDER = _where(
    _USER,
    """id IN (SELECT user_id FROM provider_customers
               WHERE provider = ANY(CAST(:providers AS text[])) AND provider_customer_id = :wanted)""",
)
_KEY_BY_ID = _where(_KEY, "id = :id")
_KEY_BY_LAST4 = _where(_KEY, "last4 = :wanted")
_KEY_BY_PREFIX = _where(_KEY, "prefix LIKE :like")
_SUBSCRIPTION_BY_ID = _where(_SUBSCRIPTION, "id = :id")
_SUBSCRIPTION_OF_PROVIDER = _where(
    _SUBSCRIPTION, "provider = ANY(CAST(:providers AS text[])) AND provider_subscription_id = :wanted"
)
_INVOICE_BY_ID = _where(_INVOICE, "id = :id")
_INVOICE_BY_NUMBER = _where(
    _INVOICE,
    """id IN (SELECT id FROM invoices WHERE full_number = upper(:wanted)
              UNION ALL SELECT id FROM invoices WHERE provider_number = :wanted
              UNION ALL SELECT id FROM invoices WHERE number = CAST(:number AS bigint))""",
)
_INVOICE_OF_PROVIDER = _where(_INVOICE, "provider = ANY(CAST(:providers AS text[])) AND provider_invoice_id = :wanted")
_PAYMENT_BY_ID = _where(_PAYMENT, "id = :id")
_PAYMENT_OF_PROVIDER = _where(_PAYMENT, "provider = ANY(CAST(:providers AS text[])) AND provider_payment_id = :wanted")
_EVENT_BY_ID = _where(_EVENT, "id = :id")
_EVENT_OF_PROVIDER = _where(_EVENT, "provider = ANY(CAST(:providers AS text[])) AND provider_event_id = :wanted")
_CALL_BY_ID = _where(_CALL, "request_id = :id AND created_at BETWEEN :since AND :until")
