"""What the API itself refuses, beyond what the schemas and the ledger do."""

from __future__ import annotations


class Conflict(Exception):  # noqa: N818 - an answer (409), not a fault
    """The thing is not in a state in which this can be done; the message says what can."""


class Invalid(ValueError):  # noqa: N818 - an answer (422), not a fault
    """A value that the schema lets through is wrong. `field` is its name in the request."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
