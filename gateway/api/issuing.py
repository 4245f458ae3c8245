"""New API keys: the secret for the one answer that shows it, the fingerprint for the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.ledger.keys import Fingerprint, fingerprint
from policies.keys import ENTROPY_BYTES, NewKey, compose


class KeyIssuer:
    """Makes keys of one prefix from `entropy` (so many random bytes), digested under the newest of the peppers."""

    def __init__(self, prefix: str, peppers: Mapping[int, bytes], *, entropy: Callable[[int], bytes]) -> None:
        self._prefix = prefix
        self._peppers = peppers
        self._entropy = entropy

    def issue(self) -> tuple[NewKey, Fingerprint]:
        key = compose(self._prefix, self._entropy(ENTROPY_BYTES))
        return key, fingerprint(key, self._peppers)
