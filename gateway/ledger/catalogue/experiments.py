"""Experiments: variants of what is offered, and which plans an account is not offered while they run.

Starting and stopping one bumps the catalogue's version, as each change of a plan: whoever keeps the plans on offer asks
again, and the lock of that row serializes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plans
from gateway.ledger.db.errors import InUse, NotFound, checked
from gateway.ledger.db.outbox import bump_catalogue
from gateway.ledger.db.rows import Page, page_by_time
from gateway.ledger.db.tables import experiments
from policies.experiments.assignment import Arms, Variant, assign

DRAFT, RUNNING, STOPPED = "draft", "running", "stopped"


@dataclass(frozen=True, slots=True)
class Experiment:
    id: UUID
    name: str
    arms: Arms
    status: str
    started_at: datetime | None
    stopped_at: datetime | None
    winner: str | None
    created_at: datetime
    updated_at: datetime


_COLUMNS = [experiments.c[column.name] for column in experiments.columns]


async def create(connection: AsyncConnection, name: str, arms: Arms) -> Experiment:
    """A draft. Raises AlreadyExists for a taken name."""
    variants = [{"name": each.name, "weight": each.weight, "plans": list(each.plans)} for each in arms.variants]
    async with checked(connection, "experiment"):
        created = insert(experiments).values(name=name, salt=arms.salt, variants=variants).returning(*_COLUMNS)
        return _stored((await connection.execute(created)).one())


async def list_experiments(connection: AsyncConnection, *, cursor: str | None, limit: int) -> Page[Experiment]:
    return await page_by_time(connection, select(*_COLUMNS), _of_columns, cursor=cursor, limit=limit)


async def get(connection: AsyncConnection, experiment_id: UUID) -> Experiment:
    """Raises NotFound."""
    row = (await connection.execute(select(*_COLUMNS).where(experiments.c.id == experiment_id))).one_or_none()
    if row is None:
        raise NotFound("experiment", experiment_id)
    return _stored(row)


async def start(connection: AsyncConnection, experiment_id: UUID) -> Experiment:
    """Raises NotFound; InUse where it was started before, a plan of it is not sold, or is in another that runs."""
    await bump_catalogue(connection)
    found = await get(connection, experiment_id)
    if found.status != DRAFT:
        raise InUse(f"The experiment {found.name} is {found.status}; an experiment starts once")
    sold = {plan.id for plan in await plans.list_plans(connection) if plan.terms.is_active}
    if unsold := found.arms.plans - sold:
        raise InUse(f"{_listed(unsold)} must be sold before the experiment can offer them")
    for other in await list_running(connection):
        if shared := other.arms.plans & found.arms.plans:
            raise InUse(f"The experiment {other.name} runs with {_listed(shared)} already")
    return await _change(connection, experiment_id, status=RUNNING, started_at=func.clock_timestamp())


async def stop(connection: AsyncConnection, experiment_id: UUID, *, winner: str | None = None) -> Experiment:
    """All plans are offered to all again; with a winner, those that only others had are not sold any more.

    Raises NotFound for the experiment or a variant of this name, and InUse unless it runs.
    """
    await bump_catalogue(connection)
    found = await get(connection, experiment_id)
    if found.status != RUNNING:
        raise InUse(f"The experiment {found.name} does not run: it is {found.status}")
    if winner is not None:
        for plan_id in sorted(found.arms.hidden_from(_variant(found, winner))):
            plan = await plans.get(connection, plan_id)
            if plan is not None:
                await plans.change(connection, plan_id, replace(plan.terms, is_active=False))
    return await _change(connection, experiment_id, status=STOPPED, stopped_at=func.clock_timestamp(), winner=winner)


async def remove(connection: AsyncConnection, experiment_id: UUID) -> Experiment:
    """Raises NotFound; InUse for one that was started, whose result stays."""
    found = await get(connection, experiment_id)
    removed = delete(experiments).where(experiments.c.id == experiment_id, experiments.c.status == DRAFT)
    if (await connection.execute(removed)).rowcount == 0:
        raise InUse(f"The experiment {found.name} was started; what came of it stays")
    return found


async def list_running(connection: AsyncConnection) -> tuple[Experiment, ...]:
    """In the order in which they were started."""
    running = select(*_COLUMNS).where(experiments.c.status == RUNNING).order_by(experiments.c.started_at)
    return tuple(_stored(row) for row in await connection.execute(running))


async def hidden_from(connection: AsyncConnection, account_id: UUID | None) -> frozenset[str]:
    """The plans that this account is not offered now. None is a stranger, who is offered what controls are."""
    hidden = frozenset[str]()
    for experiment in await list_running(connection):
        arms = experiment.arms
        hidden |= arms.hidden_from(arms.control if account_id is None else assign(arms, account_id))
    return hidden


def _variant(experiment: Experiment, name: str) -> Variant:
    for variant in experiment.arms.variants:
        if variant.name == name:
            return variant
    raise NotFound("variant", name)


async def _change(connection: AsyncConnection, experiment_id: UUID, **changes: Any) -> Experiment:
    changed = update(experiments).where(experiments.c.id == experiment_id).values(**changes).returning(*_COLUMNS)
    return _stored((await connection.execute(changed)).one())


def _stored(row: Row[Any]) -> Experiment:
    return _of_columns(**row._mapping)  # noqa: SLF001 - public by SQLAlchemy's documentation


def _of_columns(*, salt: str, variants: list[dict[str, Any]], **others: Any) -> Experiment:
    arms = Arms(salt, tuple(Variant(each["name"], each["weight"], tuple(each["plans"])) for each in variants))
    return Experiment(arms=arms, **others)


def _listed(plan_ids: Iterable[str]) -> str:
    return ", ".join(sorted(plan_ids))
