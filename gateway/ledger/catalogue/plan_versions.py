"""The versions of a plan, and the subscriptions that are pinned to one.

A subscription follows its plan unless it is pinned to a version (`keeps_version`). So a change for all subscribers
writes to no subscription; only a change that exempts the present subscribers does.

Whoever waits for another price until the next period (`keeps_version_for`) is pinned for that price alone. A change of
anything else gives them a version of their own, with today's terms at the former price.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables.subscriptions import CURRENT

# What decides what a period costs.
COST = frozenset(
    (
        *("price", "currency", "pricing_model", "tiers", "tiers_mode", "billing_interval", "billing_interval_count"),
        *("overage_credits", "overage_price", "overage_stripe_price_id"),
    )
)

# Joins the plan `p` of a subscription `s` in the version that the subscription is on. The version is laid over today's
# row, so a column that is newer than the version has today's value.
IN_FORCE = """
      LEFT JOIN subscription_plans today ON today.id = s.plan_id
      LEFT JOIN plan_versions v ON s.keeps_version AND v.plan_id = s.plan_id AND v.version = s.plan_version
      LEFT JOIN LATERAL jsonb_populate_record(today, coalesce(v.terms, '{}')) p ON true
"""

_OVERAGE_PRICES = text("""
    SELECT DISTINCT terms ->> 'overage_stripe_price_id' FROM plan_versions
     WHERE terms ->> 'overage_stripe_price_id' IS NOT NULL
""")

_RECORD = text("""
    INSERT INTO plan_versions (plan_id, version, terms, tiers, permissions)
    SELECT p.id, p.version, to_jsonb(p),
           coalesce((SELECT jsonb_agg(jsonb_build_object(
                        'up_to', t.up_to::text, 'unit_price', t.unit_price::text, 'flat_price', t.flat_price::text)
                        ORDER BY t.up_to)
                       FROM pricing_tiers t WHERE t.plan_id = p.id), '[]'),
           ARRAY(SELECT r.name FROM plan_permissions g JOIN permissions r ON r.id = g.permission_id
                  WHERE g.plan_id = p.id ORDER BY r.name)
      FROM subscription_plans p WHERE p.id = :plan_id
    ON CONFLICT (plan_id, version) DO UPDATE
        SET terms = excluded.terms, tiers = excluded.tiers, permissions = excluded.permissions
""")

_PIN = text(f"""
    UPDATE subscriptions s SET keeps_version = true, plan_version = p.version, updated_at = now(),
           metadata = s.metadata - 'keeps_version_for' || CASE WHEN :is_for_period AND s.provider = 'manual'
                                         THEN jsonb_build_object('keeps_version_for', 'period') ELSE '{{}}' END
      FROM subscription_plans p
     WHERE p.id = :plan_id AND s.plan_id = p.id AND NOT s.keeps_version AND ({CURRENT} OR status = 'incomplete')
""")  # noqa: S608 - CURRENT is a constant

# Who keeps a version for the period is not to follow the plan with the next one any more.
_KEEP_ON = text("""
    UPDATE subscriptions s SET metadata = s.metadata - 'keeps_version_for', updated_at = now()
     WHERE s.plan_id = :plan_id AND s.keeps_version AND s.metadata ? 'keeps_version_for'
""")

_UNPIN = text("""
    UPDATE subscriptions s SET keeps_version = false, plan_version = p.version, updated_at = now(),
           metadata = s.metadata - 'keeps_version_for'
      FROM subscription_plans p
     WHERE p.id = :plan_id AND s.plan_id = p.id AND s.keeps_version
       AND NOT (:leaves_waiting AND s.metadata ? 'keeps_version_for')
""")

# Whoever keeps a version at another price, and pays by invoices of the gateway.
_LET_WAIT = text(f"""
    WITH told AS (
         UPDATE subscriptions s SET metadata = s.metadata || '{{"keeps_version_for": "period"}}', updated_at = now()
           FROM subscription_plans p
           JOIN plan_versions present ON present.plan_id = p.id AND present.version = p.version
           JOIN plan_versions former ON former.plan_id = p.id
          WHERE p.id = :plan_id AND s.plan_id = p.id AND s.keeps_version AND former.version = s.plan_version
            AND NOT s.metadata ? 'keeps_version_for' AND s.provider = 'manual' AND s.{CURRENT}
            AND (former.tiers <> present.tiers OR EXISTS (
                SELECT FROM unnest(CAST(:cost AS text[])) AS name
                 WHERE former.terms ? name AND former.terms -> name <> present.terms -> name))
         RETURNING s.plan_version)
    SELECT DISTINCT plan_version FROM told ORDER BY plan_version
""")  # noqa: S608 - CURRENT is a constant

_WAITING = "s.plan_id = :plan_id AND s.keeps_version AND s.metadata ? 'keeps_version_for'"

_LIST_WAITING = text(f"SELECT DISTINCT plan_version FROM subscriptions s WHERE {_WAITING} ORDER BY plan_version")  # noqa: S608 - made of constants

# Versions that somebody waits with and that differ from today's in more than what a period costs.
_WAITED_WITH = text(f"""
    SELECT DISTINCT s.plan_version FROM subscriptions s
      JOIN subscription_plans p ON p.id = s.plan_id
      JOIN plan_versions present ON present.plan_id = p.id AND present.version = p.version
      JOIN plan_versions former ON former.plan_id = p.id AND former.version = s.plan_version
     WHERE {_WAITING} AND (former.permissions <> present.permissions
        OR former.terms - CAST(:apart AS text[]) <> present.terms - CAST(:apart AS text[]))
     ORDER BY s.plan_version
""")  # noqa: S608 - composed of constants

_LIST_KEPT = text("""
    SELECT DISTINCT plan_version, metadata ? 'keeps_version_for' AS waits FROM subscriptions
     WHERE plan_id = :plan_id AND keeps_version ORDER BY plan_version, waits
""")

_RAISE = text("UPDATE subscription_plans SET version = version + 1 WHERE id = :plan_id RETURNING version")

_RECORD_AT_COST = text("""
    INSERT INTO plan_versions (plan_id, version, terms, tiers, permissions)
    SELECT present.plan_id, CAST(:version AS bigint),
           present.terms || jsonb_build_object('version', CAST(:version AS bigint)) || coalesce(
               (SELECT jsonb_object_agg(key, value) FROM jsonb_each(former.terms) WHERE key = ANY(:cost)), '{}'),
           former.tiers, present.permissions
      FROM plan_versions present JOIN plan_versions former ON former.plan_id = present.plan_id
     WHERE present.plan_id = :plan_id AND present.version = :present AND former.version = :former
""")

_CARRY = text(f"""
    UPDATE subscriptions s SET plan_version = :version, updated_at = now() WHERE {_WAITING} AND plan_version = :former
""")  # noqa: S608 - composed of constants

_UNPIN_AFTER_PERIOD = text("""
    UPDATE subscriptions s SET keeps_version = false, plan_version = p.version, updated_at = now(),
           metadata = s.metadata - 'keeps_version_for'
      FROM subscription_plans p
     WHERE s.id = :subscription_id AND p.id = s.plan_id AND s.metadata ? 'keeps_version_for'
""")

_IS_KEPT_FOR_PERIOD = text("""
    SELECT keeps_version AND metadata ? 'keeps_version_for' FROM subscriptions WHERE id = :subscription_id
""")

_GET = text("""
    SELECT p.*, v.tiers, v.permissions
      FROM plan_versions v JOIN subscription_plans today ON today.id = v.plan_id
      CROSS JOIN LATERAL jsonb_populate_record(today, v.terms) p
     WHERE v.plan_id = :plan_id AND v.version = :version
""")


async def list_overage_prices(connection: AsyncConnection) -> frozenset[str]:
    """The metered prices that bill the overage of plans at Stripe, of all versions."""
    return frozenset(await connection.scalars(_OVERAGE_PRICES))


async def record(connection: AsyncConnection, plan_id: str) -> None:
    """Records the plan's current version."""
    await connection.execute(_RECORD, {"plan_id": plan_id})


async def pin_subscribers(connection: AsyncConnection, plan_id: str, *, is_for_period: bool = False) -> None:
    """Pins the subscriptions that follow the plan to its current version; others keep on what they have.

    `is_for_period`: those that the gateway renews follow it again with their next period. A provider goes on charging
    the price that a subscription was bought at, so one that it bills keeps the version.
    """
    await connection.execute(_PIN, {"plan_id": plan_id, "is_for_period": is_for_period})
    if not is_for_period:
        await connection.execute(_KEEP_ON, {"plan_id": plan_id})


async def let_wait(connection: AsyncConnection, plan_id: str) -> Sequence[int]:
    """Lets whoever keeps a version at another price have today's with the next period; gives these versions."""
    return (await connection.scalars(_LET_WAIT, {"plan_id": plan_id, "cost": sorted(COST)})).all()


async def list_waiting(connection: AsyncConnection, plan_id: str) -> Sequence[int]:
    """The versions with which anybody waits for another price."""
    return (await connection.scalars(_LIST_WAITING, {"plan_id": plan_id})).all()


async def list_kept(connection: AsyncConnection, plan_id: str) -> Sequence[tuple[int, bool]]:
    """The versions that anybody keeps, and whether they wait for another price with them."""
    return [(row.plan_version, row.waits) for row in await connection.execute(_LIST_KEPT, {"plan_id": plan_id})]


async def unpin_after_period(connection: AsyncConnection, subscription_id: UUID) -> bool:
    """Lets a subscription that kept its version for a period follow the plan again; False for any other."""
    return (await connection.execute(_UNPIN_AFTER_PERIOD, {"subscription_id": subscription_id})).rowcount > 0


async def is_kept_for_period(connection: AsyncConnection, subscription_id: UUID) -> bool:
    """Whether the subscription follows its plan again with the next period."""
    return bool(await connection.scalar(_IS_KEPT_FOR_PERIOD, {"subscription_id": subscription_id}))


async def unpin_subscribers(connection: AsyncConnection, plan_id: str, *, leaves_waiting: bool) -> int:
    """Lets pinned subscriptions follow the plan again, with `leaves_waiting` but those that wait; gives how many."""
    unpinned = await connection.execute(_UNPIN, {"plan_id": plan_id, "leaves_waiting": leaves_waiting})
    return unpinned.rowcount


async def carry_waiting(connection: AsyncConnection, plan_id: str) -> None:
    """Gives whoever waits for another price today's terms at the price that they wait with.

    The plan's version of today is recorded; it becomes a later one, where anybody waits. The caller has bumped the
    catalogue.
    """
    apart = [*COST, "version", "updated_at"]
    formers = (await connection.scalars(_WAITED_WITH, {"plan_id": plan_id, "apart": apart})).all()
    if not formers:
        return
    version: int = await connection.scalar(_RAISE, {"plan_id": plan_id})
    present = {"plan_id": plan_id, "present": version - 1, "cost": sorted(COST)}
    for former in formers:
        of_former = {"former": former, "version": version}
        await connection.execute(_RECORD_AT_COST, present | of_former)
        await connection.execute(_CARRY, {"plan_id": plan_id} | of_former)
        version = await connection.scalar(_RAISE, {"plan_id": plan_id})
    await record(connection, plan_id)


async def get(connection: AsyncConnection, plan_id: str, version: int) -> Row[Any] | None:
    """The columns of subscription_plans, with `tiers` and `permissions`; None for an unknown version."""
    return (await connection.execute(_GET, {"plan_id": plan_id, "version": version})).one_or_none()
