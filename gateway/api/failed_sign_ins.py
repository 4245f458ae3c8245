"""Failed sign-ins, counted by kind and logged with where they came from, so that guessing is seen."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import structlog

from gateway import metrics

Kind = Literal["password", "refresh_token", "one_time_token", "admin_token"]
_log = structlog.get_logger()


def record(kind: Kind, *, address: str, user_id: UUID | None = None) -> None:
    """`user_id` where the account is known. What was sent is never logged: a typo may be close to the secret."""
    metrics.FAILED_SIGN_INS.labels(kind).inc()
    _log.warning("sign_in_failed", kind=kind, address=address, user_id=None if user_id is None else str(user_id))
