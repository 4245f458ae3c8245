"""Moves subscriptions that keep an older version of a plan to the current one, and tells their owners.

Limits and features hold from the next request on. Where the price differs, whoever the gateway bills keeps the version
until the next period, and is told before; a provider goes on charging what a subscription was bought at.
"""

from __future__ import annotations

import json

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plan_versions, plans, price_news
from gateway.ledger.catalogue.plans import StoredPlan
from gateway.ledger.catalogue.price_news import PriceChange
from gateway.ledger.db import notifications
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.outbox import bump_catalogue
from gateway.ledger.db.tables.subscriptions import CURRENT
from policies.billing.news import PRICE_CHANGED, TERMS_CHANGED


async def migrate(connection: AsyncConnection, plan_id: str) -> int:
    """Gives how many subscriptions were moved, now or with their next period. Raises NotFound."""
    await bump_catalogue(connection)
    plan = await plans.get(connection, plan_id)
    if plan is None:
        raise NotFound("plan", plan_id)
    versions = (await connection.scalars(_KEPT_VERSIONS, {"plan_id": plan_id})).all()
    moved = sum([await _move(connection, plan, version) for version in versions])
    await plan_versions.carry_waiting(connection, plan_id)
    return moved


async def _move(connection: AsyncConnection, plan: StoredPlan, version: int) -> int:
    of_version = {"plan_id": plan.id, "version": version}
    kept = await plans.get_version(connection, plan.id, version)
    changed = frozenset() if kept is None else plans.changed_fields(kept, plan.terms, plan.permissions) - _NO_NEWS
    waiting = 0
    if kept is not None and changed:
        prices = PriceChange(plan.id, plan.terms.name, former=kept.terms.pricing, present=plan.terms.pricing)
        news = json.dumps(price_news.payload(prices))
        costs, terms = bool(changed & plan_versions.COST), bool(changed - plan_versions.COST)
        channels = [notifications.MAIL, notifications.WEBHOOK]
        told = {"payload": news, "costs": costs, "terms": terms, "channels": channels}
        await connection.execute(_TELL, of_version | told)
        waiting = (await connection.execute(_WAIT, of_version)).rowcount if costs else 0
    return waiting + (await connection.execute(_UNPIN, of_version)).rowcount


_NO_NEWS = plans.WORDING | {"provider_ids"}
_OF_VERSION = "s.plan_id = :plan_id AND s.keeps_version AND s.plan_version = :version"
_NOT_WAITING = "NOT s.metadata ? 'keeps_version_for'"

_KEPT_VERSIONS = text(f"""
    SELECT DISTINCT plan_version FROM subscriptions s
     WHERE plan_id = :plan_id AND keeps_version AND {_NOT_WAITING} ORDER BY plan_version
""")  # noqa: S608 - composed of constants

# To whom the price is the same, as to those whom a provider bills, only other terms are news.
_TELL = text(f"""
    WITH concerned AS (
         SELECT s.id, s.user_id, s.provider = 'manual' AND :costs AS pays_other, s.current_period_end
           FROM subscriptions s
          WHERE {_OF_VERSION} AND {_NOT_WAITING} AND s.{CURRENT} AND NOT s.cancel_at_period_end),
    told AS (
         INSERT INTO notices (id, user_id, kind, payload)
         SELECT gen_random_uuid(), c.user_id,
                CASE WHEN c.pays_other THEN '{PRICE_CHANGED}' ELSE '{TERMS_CHANGED}' END,
                CAST(:payload AS jsonb) || jsonb_build_object('subscription_id', c.id, 'effective_at', to_jsonb(
                    CASE WHEN c.pays_other THEN c.current_period_end ELSE now() END))
           FROM concerned c WHERE c.pays_other OR :terms
         RETURNING id)
    INSERT INTO notice_deliveries (notice_id, channel)
    SELECT told.id, channel FROM told CROSS JOIN unnest(CAST(:channels AS text[])) channel
""")  # noqa: S608 - composed of constants

_WAIT = text(f"""
    UPDATE subscriptions s SET metadata = s.metadata || '{{"keeps_version_for": "period"}}', updated_at = now()
     WHERE {_OF_VERSION} AND {_NOT_WAITING} AND s.provider = 'manual' AND s.{CURRENT}
""")  # noqa: S608 - composed of constants

_UNPIN = text(f"""
    UPDATE subscriptions s SET keeps_version = false, plan_version = p.version, updated_at = now()
      FROM subscription_plans p
     WHERE p.id = s.plan_id AND {_OF_VERSION} AND {_NOT_WAITING}
""")  # noqa: S608 - composed of constants
