"""The installation: its version, processes, upstreams and stores, as the series of all processes tell."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy import text

from gateway.api.admin.dependencies import DependenciesDep, UnitOfWorkDep
from gateway.api.admin.records.series import Series, read_series
from gateway.api.schemas.pages import ResponseModel
from policies.model import Route
from policies.pricing.price_list import PriceList
from policies.wording import counted

router = APIRouter(prefix="/system", tags=["system"])


class Process(ResponseModel):
    name: str
    is_ready: bool
    restarts: int


class UpstreamState(ResponseModel):
    name: str
    targets: list[str] = Field(description="The origins that share its calls.")
    targets_in_service: int | None = Field(description="Of the process that sees the fewest; null before its first.")
    breaker_open: bool = Field(description="Whether a process answers 503, without a target in service.")
    attempts: int
    attempts_failed: int
    ejections: int
    retries: int


class RouteState(ResponseModel):
    endpoint: str = Field(description="The route's name.")
    path: str
    methods: list[str]
    upstream: str | None
    usage_type: str
    feature: str | None
    permission: str | None
    price: str = Field(description="In words.")


class Stores(ResponseModel):
    postgresql: str = Field(description="Its version.")
    schema_revision: str
    journal_entries: int | None
    journal_lag_seconds: float | None
    holds_open: int | None
    epochs_begun: dict[str, int] = Field(description="Partitions of Redis that were loaded again, by reason.")


class System(ResponseModel):
    versions: list[str] = Field(description="The versions that run.")
    not_ready: list[str]
    processes: list[Process]
    upstreams: list[UpstreamState]
    routes: list[RouteState]
    stores: Stores


@router.get("", summary="Processes, upstreams, stores and versions")
async def get_system(unit_of_work: UnitOfWorkDep, dependencies: DependenciesDep) -> System:
    """Counts begin with the processes."""
    async with unit_of_work.read() as connection:
        version = str(await connection.scalar(text("SHOW server_version")))
        revision = str(await connection.scalar(text("SELECT version_num FROM alembic_version")))
    series = await read_series(dependencies.metrics_text)
    names = {route.upstream for route in dependencies.routes.values() if route.upstream}
    return System(
        versions=[name for name in series.by("gateway_build_info", "version") if name],
        not_ready=sorted(await dependencies.readiness()),
        processes=_processes(series),
        upstreams=[_upstream(series, name, dependencies.targets.get(name, ())) for name in sorted(names)],
        routes=[_route(route) for route in dependencies.routes.values()],
        stores=Stores(
            postgresql=version,
            schema_revision=revision,
            journal_entries=_whole(series.value("gateway_journal_entries")),
            journal_lag_seconds=series.value("gateway_journal_lag_seconds"),
            holds_open=_whole(series.value("gateway_holds_open")),
            epochs_begun={
                reason: int(count) for reason, count in series.by("gateway_epochs_begun_total", "reason").items()
            },
        ),
    )


def _processes(series: Series) -> list[Process]:
    restarts = series.by("gateway_process_restarts_total", "process")
    return [
        Process(name=name, is_ready=bool(ready), restarts=int(restarts.get(name, 0)))
        for name, ready in series.by("gateway_process_ready", "process").items()
    ]


def _upstream(series: Series, name: str, targets: Iterable[str]) -> UpstreamState:
    attempts = series.matching("gateway_upstream_requests_total", upstream=name)
    failed = sum(value for labels, value in attempts if labels["outcome"] != "succeeded")
    return UpstreamState(
        name=name,
        targets=list(targets),
        targets_in_service=_whole(series.by("gateway_upstream_targets_in_service", "upstream").get(name)),
        breaker_open=bool(series.by("gateway_upstream_breaker_open", "upstream").get(name)),
        attempts=int(sum(value for _, value in attempts)),
        attempts_failed=int(failed),
        ejections=int(series.by("gateway_upstream_ejections_total", "upstream").get(name, 0)),
        retries=int(series.by("gateway_upstream_retries_total", "upstream").get(name, 0)),
    )


def _route(route: Route) -> RouteState:
    return RouteState(
        endpoint=route.name,
        path=route.path,
        methods=sorted(route.methods),
        upstream=route.upstream or None,
        usage_type=route.usage_type,
        feature=route.feature,
        permission=route.permission,
        price=_price_of(route),
    )


def _price_of(route: Route) -> str:
    if isinstance(route.price, PriceList):
        return f"by model, price list {route.price.name}"
    price = route.price
    unit = price.unit if price.unit_size == 1 else price.unit.phrase(price.unit_size)
    return "free" if price.is_free else f"{counted(price.credits, 'credit')} per {unit}"


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
