"""Key verification: a dry run of a call by a key, which counts and charges nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field, StringConstraints

from gateway.api.admin.dependencies import DependenciesDep, UnitOfWorkDep
from gateway.api.dry_run import KEY_CREDITS_LEFT, LimitState
from gateway.api.openapi import UNKNOWN
from gateway.api.schemas.billing_records import ShownAs
from gateway.api.schemas.fields import Count, Credits, Line, Network, Size, Word
from gateway.api.schemas.pages import RequestModel, ResponseModel
from gateway.http.problem_types import STATUS
from gateway.ledger.accounts import principals
from gateway.ledger.db.errors import NotFound
from policies.access import keys
from policies.model import Refusal, Route
from policies.pricing.forecasts import Facts

router = APIRouter(prefix="/keys", tags=["keys"])


class KeyVerificationRequest(RequestModel):
    """`items`, tokens or minutes, whatever the route counts, are `units`; what is left out is not checked."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=512)] = Field(examples=["gw_live_…"])
    route: Word | None = Field(default=None, description="The name of a route; null: any, without a price.")
    credits: Credits | None = Field(default=None, description="In the place of the route's price.")
    units: Count | None = None
    model: Line | None = Field(default=None, description="The model that the call asks for, on routes priced by model.")
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    body_bytes: Size | None = None
    client_ip: Network | None = Field(default=None, examples=["203.0.113.7"])


class KeyVerification(ResponseModel):
    """`code`, `status` and `detail` are those of the refusal that the call would meet; null where it would pass."""

    admitted: bool
    code: str | None = None
    status: int | None = None
    detail: str | None = None
    key_id: UUID | None = None
    user_id: UUID | None = None
    plan: str | None = None
    credits: int | None = Field(default=None, description="What the call would cost.")
    credits_shown_as: ShownAs | None = None
    hold: int | None = Field(default=None, description="What would be set aside while it runs.")
    price: str | None = Field(default=None, description="How the credits were computed.")
    balance: int | None = None
    key_credits_left: int | None = Field(default=None, description=KEY_CREDITS_LEFT)
    in_flight: int | None = None
    in_flight_limit: int | None = None
    limits: list[LimitState] = Field(default_factory=list)


@router.post("/verify", summary="Verify a key without using it", responses=UNKNOWN)
async def verify_key(
    body: KeyVerificationRequest, unit_of_work: UnitOfWorkDep, dependencies: DependenciesDep
) -> KeyVerification:
    """Answers 200 whatever the verdict."""
    route = None if body.route is None else _route(body.route, dependencies.routes.values())
    digests = keys.lookup_digests(dependencies.key_prefix, body.key.encode(), dependencies.peppers)
    principal = None
    async with unit_of_work.read() as connection:
        for digest in digests:
            principal = principal or await principals.find_principal(connection, digest)
    if principal is None:
        code, detail = Refusal.INVALID_KEY, "This API key is not valid."
        return KeyVerification(admitted=False, code=str(code), status=STATUS[code], detail=detail)
    facts = Facts(
        units=body.units,
        model=body.model,
        input_tokens=body.input_tokens,
        output_tokens=body.output_tokens,
        body_bytes=body.body_bytes,
        credits=body.credits,
        client_ip=None if body.client_ip is None else body.client_ip.partition("/")[0],
    )
    account = principal.account
    result = await dependencies.dry_run.run(account, principal.key, route=route, facts=facts)
    plan = None if account.subscription is None else account.subscription.plan.id
    return KeyVerification(**result.model_dump(), key_id=principal.key.id, user_id=account.id, plan=plan)


def _route(name: str, routes: Iterable[Route]) -> Route:
    by_name = {route.name: route for route in routes}
    if name not in by_name:
        raise NotFound("route", f"{name!r}; there are: {', '.join(sorted(by_name))}")
    return by_name[name]
