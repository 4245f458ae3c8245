"""What is carried out once under a key of its caller, however often it is sent: its claim, its secrets, its response.

Neither the key nor what was sent can be told from what is stored, and no secret of the response.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from secrets import token_bytes

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.key_factory import DeterministicSecrets
from gateway.ledger.db import idempotency
from gateway.ledger.db.idempotency import Claim, StoredResponse

_NONCE_BYTES = 16


@dataclass(frozen=True, slots=True)
class KeyedOperation:
    """`secrets` are those that it makes if it is carried out."""

    claim: Claim
    secrets: DeterministicSecrets
    _key: bytes
    _peppers: Mapping[int, bytes]

    @classmethod
    def of(cls, caller: str, *, key: bytes, content: bytes, peppers: Mapping[int, bytes]) -> KeyedOperation:
        """`content` is what makes it another operation."""
        nonce = token_bytes(_NONCE_BYTES)
        claim = Claim(
            caller=caller,
            key_hash=hashlib.sha256(key).digest(),
            fingerprint=hmac.digest(key, content, "sha256"),
            nonce=nonce,
        )
        return cls(claim, DeterministicSecrets(peppers, nonce=nonce, key=key), key, peppers)

    async def store(
        self, connection: AsyncConnection, *, status_code: int, body: bytes, media_type: str | None = None
    ) -> None:
        """Stores the response, for repeats."""
        redacted = self.secrets.redact(body)
        await idempotency.store_response(
            connection, self.claim, status_code=status_code, media_type=media_type, body=redacted
        )

    def body_of(self, stored: StoredResponse) -> bytes | None:
        """The body of the earlier response; None where the key was sent with another operation."""
        if not hmac.compare_digest(stored.fingerprint, self.claim.fingerprint):
            return None
        return DeterministicSecrets(self._peppers, nonce=stored.nonce, key=self._key).restore(stored.body)
