"""Refusals of the API itself, beyond those of the schemas and the ledger."""

from __future__ import annotations

from gateway.ledger.db.errors import NotFound as NotFound
from policies.wording import counted


class Conflict(Exception):  # noqa: N818 - an answer (409), not a fault
    """The thing is not in a state in which this can be done; the message says what can."""


class PreconditionFailed(Exception):  # noqa: N818 - an answer (412), not a fault
    """The thing has changed since the client read it."""


class NotAuthenticated(Exception):  # noqa: N818 - an answer (401), not a fault
    """The request has no valid credentials; the message says what to send."""


class NotInScope(Exception):  # noqa: N818 - an answer (403), not a fault
    """The admin token lacks the scope."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"This needs an admin token with the scope {scope!r}.")
        self.scope = scope


class Suspended(Exception):  # noqa: N818 - an answer (403), not a fault
    """The caller is known and suspended."""


class Throttled(Exception):  # noqa: N818 - an answer (429), not a fault
    """Too many attempts; the next one can succeed after so many seconds."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"Too many attempts; try again in {counted(retry_after_seconds, 'second')}.")
        self.retry_after_seconds = retry_after_seconds


class Busy(Exception):  # noqa: N818 - an answer (503), not a fault
    """The process has no capacity for this at the moment."""


class Invalid(ValueError):  # noqa: N818 - an answer (422), not a fault
    """A value that the schema lets through is wrong. `field` is its name in the request."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
