"""New API keys: the secret for the one answer that shows it, the fingerprint for the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.ledger.accounts.api_keys import Fingerprint, fingerprint
from policies.access.keys import ENTROPY_BYTES, NewKey, compose, recognised


class KeyIssuer:
    """Makes keys of one prefix from `entropy` (so many random bytes), digested under the newest of the peppers.

    With `draw`, which gives the secret for a prefix, it makes the keys of a request that may be repeated.
    """

    def __init__(
        self,
        prefix: str,
        peppers: Mapping[int, bytes],
        *,
        entropy: Callable[[int], bytes],
        draw: Callable[[str], str] | None = None,
    ) -> None:
        self._prefix = prefix
        self._peppers = peppers
        self._entropy = entropy
        self._draw = draw

    def drawing(self, draw: Callable[[str], str] | None) -> KeyIssuer:
        """The same, but with secrets from elsewhere."""
        return KeyIssuer(self._prefix, self._peppers, entropy=self._entropy, draw=draw)

    def issue(self) -> tuple[NewKey, Fingerprint]:
        if self._draw is None:
            key = compose(self._prefix, self._entropy(ENTROPY_BYTES))
        else:
            key = recognised(self._prefix, self._draw(self._prefix))
        return key, fingerprint(key, self._peppers)
