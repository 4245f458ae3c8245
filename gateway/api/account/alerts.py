"""When the caller is told that credits run low."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import AfterValidator, Field

from gateway.api.account.dependencies import Me
from gateway.api.openapi import SIGNED_IN
from gateway.api.schemas.fields import PositiveCredits, WholePercent
from gateway.api.schemas.pages import PatchModel, ResponseModel, unset
from gateway.ledger.credits import thresholds

router = APIRouter(prefix="/me", tags=["credits"], responses=SIGNED_IN)

MAX_PERCENTS = 5
_WHAT_PERCENTS = "Told once a period, when so much of its credits is used; empty: never."
_WHAT_BALANCE = "Told each time that a call takes the balance below this; null: never."


def _rising(percents: list[int]) -> list[int]:
    return sorted(set(percents))


class Alerts(ResponseModel):
    """Mails about your credits, and events for the operator's system."""

    percents: list[int] = Field(description=_WHAT_PERCENTS, examples=[[80, 100]])
    balance_below: int | None = Field(description=_WHAT_BALANCE)


class AlertsPatch(PatchModel):
    percents: Annotated[list[WholePercent], Field(max_length=MAX_PERCENTS), AfterValidator(_rising)] = unset()
    balance_below: PositiveCredits | None = None


@router.get("/alerts", summary="When you are told that credits run low")
async def get_alerts(me: Me) -> Alerts:
    async with me.unit_of_work.read() as connection:
        return Alerts.model_validate(await thresholds.get_alerts(connection, me.id))


@router.patch("/alerts", summary="Choose when you are told that credits run low")
async def change_alerts(patch: AlertsPatch, me: Me) -> Alerts:
    """What you have passed already is told the next time."""
    async with me.unit_of_work.change() as change:
        before = Alerts.model_validate(await thresholds.get_alerts(change.connection, me.id, for_update=True))
        after = before.model_copy(update=patch.changes())
        chosen = thresholds.Alerts(tuple(after.percents), after.balance_below)
        await thresholds.choose_alerts(change.connection, me.id, chosen)
        await change.record("account.alerts", "user", entity_id=me.id, before=before, after=after)
    return after
