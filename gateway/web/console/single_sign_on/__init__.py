"""Operators who sign in without an admin token: by an OpenID provider, or by the header of a trusted proxy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.api.admin.auth import Actor
from gateway.config.operation.console import Console as ConsoleSettings

MAX_NAME = 200


class SignInFailed(Exception):  # noqa: N818 - an answer, not a fault
    """Nobody is signed in; the message says why, to whom it concerns."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is by `source`, which the audit log names too; `proven_at` None: nobody knows since when."""

    source: str
    name: str
    groups: frozenset[str]
    proven_at: datetime | None

    def actor(self, settings: ConsoleSettings) -> Actor:
        return Actor(f"{self.source}:{self.name}", settings.scopes_of(self.groups))


def checked_name(value: object) -> str | None:
    """A name that an audit log can hold and people can tell from another; None for anything else."""
    is_name = isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_NAME and value == value.strip()
    return str(value) if is_name else None
