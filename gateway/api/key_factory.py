"""New keys and tokens: random ones, or ones derived from an Idempotency-Key so that a replay shows the same secret."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping

from gateway.ledger.accounts.api_keys import Fingerprint, fingerprint
from policies.access.keys import ENTROPY_BYTES, NewKey, compose, recognised

_PURPOSE = b"gateway idempotent secrets"
_PLACEHOLDER = re.compile(rb"(\d+):(\d+):(\w+)")


class KeyFactory:
    """Makes keys of one prefix from `entropy` (so many random bytes), digested under the newest of the peppers.

    With `make_secret`, which gives the secret for a prefix, it makes the keys of a request that may be replayed.
    """

    def __init__(
        self,
        prefix: str,
        peppers: Mapping[int, bytes],
        *,
        entropy: Callable[[int], bytes],
        make_secret: Callable[[str], str] | None = None,
    ) -> None:
        self._prefix = prefix
        self._peppers = peppers
        self._entropy = entropy
        self._make_secret = make_secret

    def with_secrets(self, make_secret: Callable[[str], str]) -> KeyFactory:
        return KeyFactory(self._prefix, self._peppers, entropy=self._entropy, make_secret=make_secret)

    def create(self) -> tuple[NewKey, Fingerprint]:
        if self._make_secret is None:
            key = compose(self._prefix, self._entropy(ENTROPY_BYTES))
        else:
            key = recognised(self._prefix, self._make_secret(self._prefix))
        return key, fingerprint(key, self._peppers)


class DeterministicSecrets:
    """The secrets of one response, derived from a nonce of the request and the Idempotency-Key, under a pepper.

    The stored response holds placeholders in their place, so a stolen table reveals no secret; the client that sends
    the key again gets the same secrets.
    """

    def __init__(self, peppers: Mapping[int, bytes], *, nonce: bytes, key: bytes) -> None:
        self._peppers = peppers
        self._nonce = nonce
        self._key = key
        self._placeholders: list[tuple[bytes, bytes]] = []

    def create(self, prefix: str) -> str:
        """The next secret, in the form of a key of this prefix."""
        number, version = len(self._placeholders), max(self._peppers)
        secret = self._derive(prefix, number, version=version)
        placeholder = b"%s:%d:%d:%s" % (self._nonce.hex().encode(), number, version, prefix.encode())
        self._placeholders.append((secret.encode(), placeholder))
        return secret

    def redact(self, body: bytes) -> bytes:
        """The response with a placeholder for each secret; it begins with the nonce, so nobody can forge one."""
        for secret, placeholder in self._placeholders:
            body = body.replace(secret, placeholder)
        return body

    def restore(self, body: bytes) -> bytes:
        """The response as `redact` received it, if the key is the same."""
        first, *rest = body.split(self._nonce.hex().encode() + b":")
        return first + b"".join(_PLACEHOLDER.sub(self._secret_of, part, count=1) for part in rest)

    def _secret_of(self, placeholder: re.Match[bytes]) -> bytes:
        return self._derive(placeholder[3].decode(), int(placeholder[1]), version=int(placeholder[2])).encode()

    def _derive(self, prefix: str, number: int, *, version: int) -> str:
        pepper = hmac.digest(self._peppers[version], _PURPOSE, "sha256")
        return compose(prefix, hmac.digest(pepper, b"%s%d:%s" % (self._nonce, number, self._key), "sha256")).secret
