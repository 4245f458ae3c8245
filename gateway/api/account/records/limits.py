"""Limits and credits of the caller at this moment, read from the meter that admits calls."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.account.dependencies import DependenciesDep, KeyInUse, Reader
from gateway.api.dry_run import KEY_CREDITS_LEFT, LimitState, limit_states, limits_in_force
from gateway.api.openapi import SIGNED_IN
from gateway.api.schemas.billing_records import ShownAs
from gateway.api.schemas.pages import ResponseModel
from gateway.ledger.accounts import principals
from gateway.ledger.credits import grants
from gateway.ledger.db.errors import NotFound
from policies.access.key_budgets import cap_of, left_to_key
from policies.model import Account, FeatureValue, SubscriptionStatus

router = APIRouter(prefix="/me", tags=["limits"], responses=SIGNED_IN)


class InFlight(ResponseModel):
    limit: int | None
    current: int


class CreditsLeft(ResponseModel):
    remaining: int = Field(description="May be negative, and calls under way have theirs set aside.")
    overage_limit: int = Field(description="How far below zero a call may take it; what is below zero is billed.")
    shown_as: ShownAs | None
    key_credits_left: int | None = Field(description=f"{KEY_CREDITS_LEFT} Only where an API key asks.")
    used_this_period: int = Field(description="Some seconds behind the calls themselves.")
    period_start: datetime | None
    period_end: datetime | None
    next_credit_refill: datetime | None


class AccountLimits(ResponseModel):
    """Limits belong to the account: all its keys use up the same."""

    plan: str | None
    subscription_status: SubscriptionStatus | None
    limits: list[LimitState] = Field(description="Of the plan, by window; one that is not there is no limit.")
    in_flight: InFlight
    credits: CreditsLeft
    features: dict[str, FeatureValue]
    permissions: list[str]


@router.get("/limits", summary="What is left to you, and when there will be more")
async def get_limits(user_id: Reader, key: KeyInUse, dependencies: DependenciesDep) -> AccountLimits:
    """Read from where calls are admitted, at this moment. Takes an API key too."""
    async with dependencies.database.read() as connection:
        account = await account_of(connection, user_id)
        balance = await grants.get_balance(connection, user_id)
    if balance is None:
        raise NotFound("user", user_id)
    cap = cap_of(key, account.subscription)
    snapshot = await dependencies.dry_run.snapshot(account, cap)
    force = limits_in_force(account)
    plan = account.subscription.plan if account.subscription else None
    return AccountLimits(
        plan=plan.id if plan else None,
        subscription_status=account.subscription.status if account.subscription else None,
        limits=limit_states(snapshot, force),
        in_flight=InFlight(limit=force.in_flight, current=snapshot.in_flight),
        credits=CreditsLeft(
            remaining=snapshot.balance,
            overage_limit=force.overage,
            shown_as=ShownAs.of_balance(dependencies.credit_value, snapshot.balance),
            key_credits_left=left_to_key(cap, snapshot.spent),
            used_this_period=balance.credits_used_this_period,
            period_start=balance.period_start,
            period_end=balance.period_end,
            next_credit_refill=balance.next_credit_refill,
        ),
        features=dict(plan.features) if plan else {},
        permissions=sorted(plan.permissions) if plan else [],
    )


async def account_of(connection: AsyncConnection, user_id: UUID) -> Account:
    """As its keys would be admitted on. Raises NotFound for one deleted meanwhile."""
    account = await principals.find_account(connection, user_id)
    if account is None:
        raise NotFound("user", user_id)
    return account
