"""Experiments: A/B tests of plans. Accounts are shared out among variants, and each is offered the plans of its own."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.errors import Invalid
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.experiments import (
    ExperimentComparison,
    ExperimentEstimate,
    ExperimentReport,
    VariantResult,
)
from gateway.api.schemas.fields import Line, PositiveCount
from gateway.api.schemas.pages import PageModel, PageQuery, RequestModel, ResponseModel, page_of
from gateway.clock import now
from gateway.ledger.catalogue import experiments
from gateway.ledger.reports import experiments as results
from policies.experiments import comparison
from policies.experiments.assignment import MAX_VARIANTS, Arms, Variant, assign, problem
from policies.experiments.comparison import Comparison, Outcome

router = APIRouter(prefix="/experiments", tags=["experiments"])


class NewVariant(RequestModel):
    name: Line = Field(examples=["control"])
    weight: PositiveCount = Field(default=1, description="Its share of the accounts, against the other weights.")
    plans: Annotated[list[Line], Field(min_length=1, max_length=20)] = Field(
        examples=[["pro"]],
        description="Ids of plans that this variant is offered, besides those that no variant has.",
    )


class ExperimentVariant(ResponseModel):
    name: str
    weight: int
    plans: list[str]


class NewExperiment(RequestModel):
    name: Line = Field(examples=["pro at 39"])
    variants: Annotated[list[NewVariant], Field(min_length=2, max_length=MAX_VARIANTS)] = Field(
        examples=[[{"name": "control", "plans": ["pro"]}, {"name": "dearer", "plans": ["enterprise"]}]],
        description="The control first: strangers, whom nobody can tell apart, are offered what it is.",
    )
    salt: Line | None = Field(
        default=None,
        description="Accounts are shared out by the SHA-256 of `SALT:ACCOUNT_ID`; a random one where it is left out.",
    )


class Experiment(ResponseModel):
    id: UUID
    name: str
    salt: str
    variants: list[ExperimentVariant]
    status: Literal["draft", "running", "stopped"]
    started_at: datetime | None
    stopped_at: datetime | None
    winner: str | None = Field(description="The variant whose plans stayed on sale; null: those of all.")
    created_at: datetime
    updated_at: datetime


class ExperimentEnd(RequestModel):
    winner: Line | None = Field(
        default=None,
        description="A variant: plans that only others had are not sold any more. null: those of all are, to all.",
    )


class ExperimentAssignment(ResponseModel):
    user_id: UUID
    variant: str


@router.post("", status_code=201, summary="Create an experiment", responses=CONFLICTS)
async def create_experiment(body: NewExperiment, unit_of_work: UnitOfWorkDep) -> Experiment:
    """A draft, which changes nothing until it is started."""
    variants = tuple(Variant(each.name, each.weight, tuple(each.plans)) for each in body.variants)
    if (wrong := problem(variants)) is not None:
        raise Invalid("variants", wrong)
    arms = Arms(body.salt or secrets.token_hex(8), variants)
    async with unit_of_work.change() as change:
        created = _model(await experiments.create(change.connection, body.name, arms))
        await change.record("experiments.create", "experiment", entity_id=created.id, after=created)
    return created


@router.get("", summary="List experiments")
async def list_experiments(query: Annotated[PageQuery, Query()], unit_of_work: UnitOfWorkDep) -> PageModel[Experiment]:
    async with unit_of_work.read() as connection:
        page = await experiments.list_experiments(connection, cursor=query.cursor, limit=query.limit)
    return page_of(page, _model)


@router.get("/{experiment_id}", summary="Get an experiment", responses=UNKNOWN)
async def get_experiment(experiment_id: UUID, unit_of_work: UnitOfWorkDep) -> Experiment:
    async with unit_of_work.read() as connection:
        return _model(await experiments.get(connection, experiment_id))


@router.post("/{experiment_id}/start", summary="Start an experiment", responses=UNKNOWN | CONFLICTS)
async def start_experiment(experiment_id: UUID, unit_of_work: UnitOfWorkDep) -> Experiment:
    """From the next request on, each account is offered the plans of its variant only. It starts once; its plans must
    be sold, and in no other experiment that runs."""
    async with unit_of_work.change() as change:
        before = _model(await experiments.get(change.connection, experiment_id))
        after = _model(await experiments.start(change.connection, experiment_id))
        await change.record("experiments.start", "experiment", entity_id=experiment_id, before=before, after=after)
    return after


@router.post("/{experiment_id}/stop", summary="Stop an experiment", responses=UNKNOWN | CONFLICTS)
async def stop_experiment(experiment_id: UUID, unit_of_work: UnitOfWorkDep, body: ExperimentEnd) -> Experiment:
    """Whoever subscribed stays on what they have."""
    async with unit_of_work.change() as change:
        before = _model(await experiments.get(change.connection, experiment_id))
        after = _model(await experiments.stop(change.connection, experiment_id, winner=body.winner))
        await change.record("experiments.stop", "experiment", entity_id=experiment_id, before=before, after=after)
    return after


@router.delete("/{experiment_id}", status_code=204, summary="Delete a draft", responses=UNKNOWN | CONFLICTS)
async def delete_experiment(experiment_id: UUID, unit_of_work: UnitOfWorkDep) -> None:
    async with unit_of_work.change() as change:
        before = _model(await experiments.remove(change.connection, experiment_id))
        await change.record("experiments.delete", "experiment", entity_id=experiment_id, before=before)


@router.get("/{experiment_id}/report", summary="What the variants brought", responses=UNKNOWN)
async def get_experiment_report(experiment_id: UUID, unit_of_work: UnitOfWorkDep) -> ExperimentReport:
    """Its accounts are those that had paid nothing before the start."""
    async with unit_of_work.read() as connection:
        found = await experiments.get(connection, experiment_id)
        if found.started_at is None:
            return _report({each.name: Outcome() for each in found.arms.variants}, found, until=None)
        until = found.stopped_at or now()
        brought = await results.outcomes(connection, found.arms, since=found.started_at, until=until)
    return _report(brought, found, until=until)


@router.get("/{experiment_id}/assignments/{user_id}", summary="The variant of an account", responses=UNKNOWN)
async def get_experiment_assignment(
    experiment_id: UUID, user_id: UUID, unit_of_work: UnitOfWorkDep
) -> ExperimentAssignment:
    """That of any account id, whether it has been offered anything yet or not."""
    async with unit_of_work.read() as connection:
        arms = (await experiments.get(connection, experiment_id)).arms
    return ExperimentAssignment(user_id=user_id, variant=assign(arms, user_id).name)


def _model(found: experiments.Experiment) -> Experiment:
    own = {name: getattr(found, name) for name in Experiment.model_fields if name not in ("salt", "variants")}
    variants = [ExperimentVariant.model_validate(each) for each in found.arms.variants]
    return Experiment(**own, salt=found.arms.salt, variants=variants)


def _report(outcomes: dict[str, Outcome], found: experiments.Experiment, *, until: datetime | None) -> ExperimentReport:
    compared = comparison.compare(outcomes, {each.name: each.weight for each in found.arms.variants})
    sign_ups = sum(each.sign_ups for each in outcomes.values())
    return ExperimentReport(
        since=found.started_at,
        until=until,
        variants=[_result(name, each, of_all=sign_ups) for name, each in outcomes.items()],
        comparisons=_comparisons(compared),
        finds_difference=any(each.is_significant for each in compared),
    )


def _result(name: str, outcome: Outcome, *, of_all: int) -> VariantResult:
    estimates = [ExperimentEstimate.model_validate(each) for each in comparison.estimate(outcome, of_all=of_all)]
    counts: dict[str, Any] = {each: getattr(outcome, each) for each in ("accounts", "sign_ups", "paid")}
    return VariantResult(name=name, estimates=estimates, **counts)


def _comparisons(compared: Sequence[Comparison]) -> list[ExperimentComparison]:
    return [
        ExperimentComparison.model_validate(
            {
                "variant": each.variant,
                "metric": each.metric,
                "currency": each.currency,
                "difference": each.difference.value,
                "interval": each.difference.interval,
                "p_value": each.difference.p_value,
                "adjusted_p_value": each.adjusted_p_value,
                "is_significant": each.is_significant,
            }
        )
        for each in compared
    ]
