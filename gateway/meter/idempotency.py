"""What a call with an Idempotency-Key has Redis remember: that it runs, then what a repeat of it is told."""

from __future__ import annotations

from typing import NamedTuple

from gateway.meter.keys import AccountKeys

# How long a claim is remembered: from its admission, then from its end.
CLAIM_SECONDS = 86_400

# What an account may have stored in a day (UTC); past it answers are not replayable. Two days' worth is kept at most.
MAX_STORED_BYTES_PER_DAY = 64 * 1024 * 1024


class IdempotencyClaim(NamedTuple):
    """A key of a call, by its digest, and the fingerprint of the request that it came with."""

    digest: str
    fingerprint: str

    def key(self, keys: AccountKeys) -> bytes:
        """Where the account remembers it: a hash of `f` fingerprint, `r` request id, `e` epoch, then `a` answer."""
        return keys.account.replace(b":a:", b":k:", 1) + b":" + self.digest.encode()


class ClaimOutcome(NamedTuple):
    """What is left of a claim when its call has ended.

    `answer` is what a repeat is told; empty where there is none that could be told again, so that it is refused; None
    where nothing is left, and the key is free.
    """

    claim: IdempotencyClaim
    answer: bytes | None

    @property
    def without_response(self) -> ClaimOutcome:
        """The same as far as it is remembered in few bytes."""
        return self._replace(answer=b"") if self.answer else self

    @property
    def settle_arguments(self) -> tuple[str | bytes | int, ...]:
        """As `settle.lua` takes it."""
        answer = () if self.answer is None else (self.answer,)
        return (self.claim.fingerprint, MAX_STORED_BYTES_PER_DAY, *answer)

    @property
    def replay_arguments(self) -> tuple[str | bytes, ...]:
        """As scripts take it that store no answer."""
        return (self.claim.fingerprint,) if self.answer is None else (self.claim.fingerprint, b"")
