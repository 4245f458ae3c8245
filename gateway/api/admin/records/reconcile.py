"""The books of all accounts compared, and made to agree where that is asked for."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body
from pydantic import Field

from gateway.api.admin.dependencies import Held, TheActor
from gateway.api.schemas.fields import Flag
from gateway.api.schemas.pages import Given, Shown

router = APIRouter(prefix="/reconcile", tags=["reconcile"])

MAX_SHOWN = 1000


class Reconciliation(Given):
    repair: Flag = Field(default=False, description="End each difference in favour of the balance row.")


class Difference(Shown):
    user_id: UUID
    book: str = Field(description="Which book differs from the balance row.")
    expected: int
    found: int
    repaired: bool


class Reconciled(Shown):
    accounts: int = Field(description="How many were compared.")
    hot: int = Field(description="How many of them Redis had.")
    differences: int
    repaired: int
    found: list[Difference] = Field(description=f"The first {MAX_SHOWN}.")


@router.post("", summary="Prove that ledger, grants, balance and Redis agree")
async def reconcile(held: Held, actor: TheActor, given: Annotated[Reconciliation | None, Body()] = None) -> Reconciled:
    """Under traffic, locking nobody's account. Each repair leaves an entry in the audit log."""
    repair = given is not None and given.repair
    accounts = hot = differences = repaired = 0
    shown: list[Difference] = []
    async for page in held.reconcile(actor.name if repair else None):
        accounts, hot = accounts + page.accounts, hot + page.hot
        differences += len(page.found)
        repaired += sum(each.is_repaired for each in page.found)
        for user_id, difference, is_repaired in page.found[: MAX_SHOWN - len(shown)]:
            shown.append(
                Difference(
                    user_id=user_id,
                    book=str(difference.book),
                    expected=difference.expected,
                    found=difference.found,
                    repaired=is_repaired,
                )
            )
    return Reconciled(accounts=accounts, hot=hot, differences=differences, repaired=repaired, found=shown)
