"""Endpoints of probes and scrapers. They need no token, so they name what is missing without details."""

from __future__ import annotations

from typing import Literal

import structlog
from fastapi import APIRouter, Response
from pydantic import BaseModel

from gateway.api.admin.dependencies import DependenciesDep
from gateway.metrics import CONTENT_TYPE

router = APIRouter(tags=["health"])
_log = structlog.get_logger()


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """`missing` names what keeps requests from being admitted."""

    status: Literal["ready", "not_ready"]
    missing: list[str]


@router.get("/healthz", summary="Whether the process lives")
async def healthz() -> Health:
    return Health()


@router.get("/livez", summary="Whether the process lives")
async def livez() -> Health:
    return Health()


@router.get("/readyz", summary="Whether requests can be admitted", responses={503: {"model": Readiness}})
async def readyz(dependencies: DependenciesDep, response: Response) -> Readiness:
    missing = await dependencies.readiness()
    if not missing:
        return Readiness(status="ready", missing=[])
    _log.warning("not_ready", **missing)  # the reasons hold addresses, which are for the log alone
    response.status_code = 503
    return Readiness(status="not_ready", missing=sorted(missing))


@router.get("/metrics", summary="All series, in the Prometheus text format", response_class=Response)
async def metrics(dependencies: DependenciesDep) -> Response:
    return Response(await dependencies.metrics_text(), media_type=CONTENT_TYPE)
