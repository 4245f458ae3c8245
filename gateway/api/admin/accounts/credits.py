"""A user's credits: the balance, its grants, and the ledger of every movement."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field, field_validator, model_validator

from gateway.api.admin.accounts.users import existing_user
from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.openapi import UNKNOWN
from gateway.api.schemas.fields import FutureInstant, Line, PositiveCredits, Priority, SignedCredits
from gateway.api.schemas.pages import PageModel, PageQuery, RequestModel, ResponseModel, page_of
from gateway.api.selling.top_ups import TopUp, top_up_of
from gateway.ledger.accounts import users
from gateway.ledger.credits import grants, movements

router = APIRouter(prefix="/users/{user_id}", tags=["credits"], responses=UNKNOWN)

Source = Literal["plan", "trial", "purchase", "promo", "admin"]


class Grant(ResponseModel):
    id: UUID
    source: Source
    amount: int
    remaining: int
    priority: int = Field(description="Lower burns first.")
    effective_at: datetime
    expires_at: datetime | None
    is_scheduled: bool = Field(description="Its time has not come: it is in no balance yet.")
    reason: str | None
    created_at: datetime


class Credits(ResponseModel):
    user_id: UUID
    current_credits: int = Field(description="May be negative. Calls of the last seconds may not be in it yet.")
    total_credits_purchased: int
    total_credits_used: int
    total_credits_expired: int
    credits_used_this_period: int
    period_start: datetime | None
    period_end: datetime | None
    last_credit_refill: datetime | None
    next_credit_refill: datetime | None
    subscription_id: UUID | None


class CreditsWithGrants(Credits):
    grants: list[Grant] = Field(description="What is left of them, in the order it will burn.")
    scheduled: list[Grant] = Field(description="Those whose time has not come, the next first.")


class LedgerEntry(ResponseModel):
    id: int
    user_id: UUID
    kind: str
    amount: int = Field(description="Signed: what the movement did to the balance.")
    balance_after: int
    grant_id: UUID | None
    reason: str | None
    actor: str
    metadata: dict[str, Any]
    created_at: datetime


class NewGrant(RequestModel):
    amount: PositiveCredits = Field(examples=[100])
    reason: Line = Field(examples=["goodwill after an outage"], description="Stands in the ledger for ever.")
    source: Source = "admin"
    priority: Priority | None = Field(
        default=None, description="Lower burns first. By source: plan and trial 10, promo 20, admin 30, purchase 50."
    )
    effective_at: FutureInstant | None = Field(default=None, description="null: now. Until then it cannot be spent.")
    expires_at: FutureInstant | None = Field(default=None, description="null: never.")

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if self.effective_at is not None and self.expires_at is not None and self.expires_at <= self.effective_at:
            raise ValueError("expires_at must be after effective_at")
        return self


class Adjustment(RequestModel):
    amount: SignedCredits = Field(examples=[-25], description="Signed; the balance may go below zero.")
    reason: Line = Field(examples=["charged twice by mistake"], description="Stands in the ledger for ever.")

    @field_validator("amount")
    @classmethod
    def _moves_something(cls, amount: int) -> int:
        if amount == 0:
            raise ValueError("must not be 0")
        return amount


@router.get("/credits", summary="A user's balance and open grants")
async def get_credits(user_id: UUID, unit_of_work: UnitOfWorkDep) -> CreditsWithGrants:
    async with unit_of_work.read() as connection:
        await existing_user(connection, user_id)
        balance = Credits.model_validate(await grants.get_balance(connection, user_id))
        current = [Grant.model_validate(grant) for grant in await grants.list_open_grants(connection, user_id)]
        scheduled = [Grant.model_validate(grant) for grant in await grants.list_scheduled_grants(connection, user_id)]
    return CreditsWithGrants(**balance.model_dump(), grants=current, scheduled=scheduled)


@router.post("/credits/grant", status_code=201, summary="Give a user credits")
async def grant_credits(user_id: UUID, body: NewGrant, unit_of_work: UnitOfWorkDep) -> LedgerEntry | Grant:
    """They can be spent from the very next request on; a debt is settled first.

    With `effective_at` the answer is the grant that begins then; the ledger has it once it does.
    """
    granted: LedgerEntry | Grant
    async with unit_of_work.change() as change:
        await users.get_for_update(change.connection, user_id)
        terms = body.model_dump(exclude={"effective_at"})
        if body.effective_at is None:
            entry = await grants.grant(change.connection, user_id, actor=change.actor, **terms)
            granted = LedgerEntry.model_validate(entry)
        else:
            planned = await grants.schedule(
                change.connection, user_id, actor=change.actor, effective_at=body.effective_at, **terms
            )
            granted = Grant.model_validate(planned)
        await change.record("credits.grant", "user", entity_id=user_id, after=granted, reason=body.reason)
    return granted


@router.post("/credits/adjust", status_code=201, summary="Correct a user's balance")
async def adjust_credits(user_id: UUID, body: Adjustment, unit_of_work: UnitOfWorkDep) -> LedgerEntry:
    async with unit_of_work.change() as change:
        await users.get_for_update(change.connection, user_id)
        entry = await grants.adjust(
            change.connection, user_id, amount=body.amount, reason=body.reason, actor=change.actor
        )
        adjusted = LedgerEntry.model_validate(entry)
        await change.record("credits.adjust", "user", entity_id=user_id, after=adjusted, reason=body.reason)
    return adjusted


@router.get("/top-up", summary="A user's automatic top-up")
async def get_top_up(user_id: UUID, unit_of_work: UnitOfWorkDep) -> TopUp:
    """What the customer agreed to, what was charged by it, and why it stopped. Only the customer changes it."""
    async with unit_of_work.read() as connection:
        await existing_user(connection, user_id)
        return await top_up_of(connection, user_id)


@router.get("/ledger", summary="Every movement of a user's credits, newest first")
async def list_ledger(
    user_id: UUID, query: Annotated[PageQuery, Query()], unit_of_work: UnitOfWorkDep
) -> PageModel[LedgerEntry]:
    async with unit_of_work.read() as connection:
        await existing_user(connection, user_id)
        page = await movements.list_ledger(connection, user_id, cursor=query.cursor, limit=query.limit)
    return page_of(page, LedgerEntry.model_validate)
