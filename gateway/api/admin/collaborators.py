"""What endpoints work with, as the app holds it; an endpoint names what it needs in its signature."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from gateway.api.desk import Desk
from gateway.api.issuing import KeyIssuer

Readiness = Callable[[], Awaitable[Mapping[str, str]]]
MetricsText = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Collaborators:
    desk: Desk
    issuer: KeyIssuer
    metrics_text: MetricsText
    readiness: Readiness


def collaborators(request: Request) -> Collaborators:
    held: Collaborators = request.app.state.collaborators
    return held


Held = Annotated[Collaborators, Depends(collaborators)]


def _desk(held: Held) -> Desk:
    return held.desk


def _issuer(held: Held) -> KeyIssuer:
    return held.issuer


TheDesk = Annotated[Desk, Depends(_desk)]
TheIssuer = Annotated[KeyIssuer, Depends(_issuer)]
