"""Reconciliation: compares the books of all accounts, and repairs differences on request."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body
from pydantic import Field

from gateway.api.admin.dependencies import ActorDep, DependenciesDep, ReconciledDifference, ReconciledPage
from gateway.api.schemas.fields import Flag
from gateway.api.schemas.pages import RequestModel, ResponseModel

router = APIRouter(prefix="/reconcile", tags=["reconcile"])

MAX_SHOWN = 1000


class ReconcileRequest(RequestModel):
    repair: Flag = Field(default=False, description="End each difference in favour of the balance row.")


class BookDifference(ResponseModel):
    user_id: UUID
    book: str = Field(description="Which book differs from the balance row.")
    expected: int
    found: int
    repaired: bool


class ReconcileReport(ResponseModel):
    accounts: int = Field(description="How many were compared.")
    hot: int = Field(description="How many of them Redis had.")
    differences: int
    repaired: int
    found: list[BookDifference] = Field(description=f"The first {MAX_SHOWN}.")


@router.post("", summary="Prove that ledger, grants, balance and Redis agree")
async def reconcile(
    dependencies: DependenciesDep, actor: ActorDep, body: Annotated[ReconcileRequest | None, Body()] = None
) -> ReconcileReport:
    """Under traffic, locking nobody's account. Each repair leaves an entry in the audit log."""
    repair = body is not None and body.repair
    report = ReconcileReport(accounts=0, hot=0, differences=0, repaired=0, found=[])
    async for page in dependencies.reconcile(actor.name if repair else None):
        report = add_page(report, page)
    return report


def add_page(report: ReconcileReport, page: ReconciledPage) -> ReconcileReport:
    """The report with what one more page of accounts has."""
    shown = [_difference(each) for each in page.differences[: MAX_SHOWN - len(report.found)]]
    return ReconcileReport(
        accounts=report.accounts + page.accounts,
        hot=report.hot + page.loaded,
        differences=report.differences + len(page.differences),
        repaired=report.repaired + sum(each.is_repaired for each in page.differences),
        found=report.found + shown,
    )


def _difference(found: ReconciledDifference) -> BookDifference:
    difference = found.difference
    return BookDifference(
        user_id=found.user_id,
        book=str(difference.book),
        expected=difference.expected,
        found=difference.found,
        repaired=found.is_repaired,
    )
