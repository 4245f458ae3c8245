"""What endpoints work with, as the app holds it; an endpoint names what it needs in its signature."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple
from uuid import UUID

from fastapi import Depends, Request

from gateway.api.admin.auth import Actor
from gateway.api.dry_run import Previewer
from gateway.api.key_factory import KeyIssuer
from gateway.api.unit_of_work import Desk
from policies.model import Route
from policies.usage.reconciliation import Difference

Readiness = Callable[[], Awaitable[Mapping[str, str]]]
MetricsText = Callable[[], bytes]


class Found(NamedTuple):
    """A difference between the books of an account, and whether it was ended."""

    user_id: UUID
    difference: Difference
    is_repaired: bool


class Page(NamedTuple):
    """What was found among so many accounts, of which Redis had so many."""

    accounts: int
    hot: int
    found: tuple[Found, ...]


# All accounts page by page; the actor repairs what is found, None only reports it.
Reconcile = Callable[[str | None], AsyncIterator[Page]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collaborators:
    desk: Desk
    issuer: KeyIssuer
    token_issuer: KeyIssuer
    previewer: Previewer
    routes: Mapping[str, Route]
    key_prefix: str
    peppers: Mapping[int, bytes]
    reconcile: Reconcile
    metrics_text: MetricsText
    readiness: Readiness


def collaborators(request: Request) -> Collaborators:
    held: Collaborators = request.app.state.collaborators
    return held


Held = Annotated[Collaborators, Depends(collaborators)]


def _actor(request: Request) -> Actor:
    actor: Actor = request.state.actor
    return actor


TheActor = Annotated[Actor, Depends(_actor)]


def _desk(request: Request, held: Held, actor: TheActor) -> Desk:
    return held.desk.of(actor.name, joined=getattr(request.state, "joined", None))


def _issuer(request: Request, held: Held) -> KeyIssuer:
    return _drawing(request, held.issuer)


def _token_issuer(request: Request, held: Held) -> KeyIssuer:
    return _drawing(request, held.token_issuer)


def _drawing(request: Request, issuer: KeyIssuer) -> KeyIssuer:
    """With the secrets of a request that may be repeated, where it may."""
    drawn = getattr(request.state, "drawn", None)
    return issuer if drawn is None else issuer.drawing(drawn.issue)


TheDesk = Annotated[Desk, Depends(_desk)]
TheIssuer = Annotated[KeyIssuer, Depends(_issuer)]
TheTokenIssuer = Annotated[KeyIssuer, Depends(_token_issuer)]
