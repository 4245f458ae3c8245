"""What endpoints of the admin API depend on; an endpoint names what it needs in its signature."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple
from uuid import UUID

from fastapi import Body, Depends, Request
from pydantic import Field

from gateway.api.admin.auth import Actor
from gateway.api.dry_run import DryRun
from gateway.api.key_factory import DeterministicSecrets, KeyFactory
from gateway.api.schemas.fields import Line
from gateway.api.schemas.pages import RequestModel
from gateway.api.unit_of_work import UnitOfWork
from policies.billing.money import CreditValue
from policies.model import Route
from policies.usage.reconciliation import Difference

Readiness = Callable[[], Awaitable[Mapping[str, str]]]
MetricsText = Callable[[], Awaitable[bytes]]


class ReconciledDifference(NamedTuple):
    """A difference between the books of an account, and whether it was repaired."""

    user_id: UUID
    difference: Difference
    is_repaired: bool


class ReconciledPage(NamedTuple):
    """A page of accounts, how many of them Redis had loaded, and the differences between their books."""

    accounts: int
    loaded: int
    differences: tuple[ReconciledDifference, ...]


# Yields all accounts page by page. Differences are repaired in the name of the actor; None only reports them.
Reconcile = Callable[[str | None], AsyncIterator[ReconciledPage]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminDependencies:
    unit_of_work: UnitOfWork
    key_factory: KeyFactory
    token_factory: KeyFactory
    dry_run: DryRun
    routes: Mapping[str, Route]
    targets: Mapping[str, Sequence[str]]
    key_prefix: str
    peppers: Mapping[int, bytes]
    reconcile: Reconcile
    metrics_text: MetricsText
    readiness: Readiness
    credit_value: CreditValue | None = None
    portal_url: str | None = None
    return_origins: tuple[str, ...] = ()


def _dependencies(request: Request) -> AdminDependencies:
    found: AdminDependencies = request.app.state.dependencies
    return found


DependenciesDep = Annotated[AdminDependencies, Depends(_dependencies)]


class Action(RequestModel):
    """The body of a change that needs none."""

    reason: Line | None = Field(default=None, examples=["asked by mail"], description="Stands in the audit log.")


def _reason(body: Annotated[Action | None, Body()] = None) -> str | None:
    return None if body is None else body.reason


ReasonDep = Annotated[str | None, Depends(_reason)]


def _actor(request: Request) -> Actor:
    actor: Actor = request.state.caller
    return actor


ActorDep = Annotated[Actor, Depends(_actor)]


def _unit_of_work(request: Request, dependencies: DependenciesDep, actor: ActorDep) -> UnitOfWork:
    return dependencies.unit_of_work.for_actor(actor.name, enclosing=getattr(request.state, "enclosing", None))


def _key_factory(request: Request, dependencies: DependenciesDep) -> KeyFactory:
    return _replayable(request, dependencies.key_factory)


def _token_factory(request: Request, dependencies: DependenciesDep) -> KeyFactory:
    return _replayable(request, dependencies.token_factory)


def _replayable(request: Request, factory: KeyFactory) -> KeyFactory:
    """A request with an Idempotency-Key gets secrets that its replay derives again."""
    secrets: DeterministicSecrets | None = getattr(request.state, "secrets", None)
    return factory if secrets is None else factory.with_secrets(secrets.create)


UnitOfWorkDep = Annotated[UnitOfWork, Depends(_unit_of_work)]
KeyFactoryDep = Annotated[KeyFactory, Depends(_key_factory)]
TokenFactoryDep = Annotated[KeyFactory, Depends(_token_factory)]
