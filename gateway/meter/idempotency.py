"""What Redis stores for a call with an Idempotency-Key: a claim while it runs, then the response to its repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gateway.meter.keys import AccountKeys
from policies.idempotency import MAX_STORED_BYTES, MAX_STORED_BYTES_PER_ACCOUNT

# How long a claim lasts, from its admission and again from its settlement.
CLAIM_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """The bytes of responses that may be stored in a day (UTC): of an account, and of all together.

    Responses beyond a limit are not replayable. Each is stored for 24 hours, so two days' worth is stored at most.
    """

    of_account: int = MAX_STORED_BYTES_PER_ACCOUNT
    of_all: int = MAX_STORED_BYTES


class IdempotencyClaim(NamedTuple):
    """The digest of a call's key, and the fingerprint of its request."""

    digest: str
    fingerprint: str

    def key(self, keys: AccountKeys) -> bytes:
        """The Redis key of the claim; `gateway/meter/layout.py` has its fields."""
        return keys.account.replace(b":a:", b":k:", 1) + b":" + self.digest.encode()


class ClaimOutcome(NamedTuple):
    """What becomes of a claim when its call is settled.

    `response` is what repeats get. It is empty if it cannot be replayed, so that repeats are refused; None frees the
    key.
    """

    claim: IdempotencyClaim
    response: bytes | None

    @property
    def without_response(self) -> ClaimOutcome:
        """The same, small enough to be buffered and spooled: repeats are refused."""
        return self._replace(response=b"") if self.response else self

    @property
    def optional_response(self) -> dict[str, bytes]:
        """The last argument of scripts, which is missing if the key is free again."""
        return {} if self.response is None else {"response": self.response}
