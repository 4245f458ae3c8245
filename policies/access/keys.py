"""Whether a string is one of our keys, and whether a known key may be used now and from here.

A key is PREFIX `_live_`, 30 base62 characters (178 bits) and 6 base62 characters of the CRC-32 of all that precedes,
as GitHub's tokens are built (https://github.blog/2021-04-05-behind-githubs-new-authentication-token-formats/): a
secret scanner recognises it, and a mistyped one is refused before any I/O.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address, ip_network
from zlib import crc32

from policies.model import Key, KeyStatus, Refusal, Refused

# Header fields by which clients of different makes send a key: OpenAI and others, Anthropic, Google, Azure.
KEY_FIELDS = frozenset((b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"))
RANDOM_LENGTH = 30
CHECKSUM_LENGTH = 6
ENTROPY_BYTES = 32
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ALPHABET_BYTES = _ALPHABET.encode()


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment its secret is known. `prefix` and `last4` are what may be shown afterwards."""

    secret: str
    prefix: str
    last4: str


def compose(prefix: str, entropy: bytes) -> NewKey:
    """Makes the key that `entropy` (ENTROPY_BYTES random bytes) stands for."""
    if len(entropy) < ENTROPY_BYTES:
        raise ValueError(f"a key takes {ENTROPY_BYTES} bytes of entropy, got {len(entropy)}")
    body = f"{prefix}_live_{_base62(int.from_bytes(entropy, 'big'), RANDOM_LENGTH)}"
    secret = body + _checksum(body.encode())
    return recognised(prefix, secret)


def recognised(prefix: str, secret: str) -> NewKey:
    """A key of this prefix with the parts by which it is recognised."""
    return NewKey(secret=secret, prefix=secret[: len(prefix) + 10], last4=secret[-4:])


def is_well_formed(prefix: str, key: bytes) -> bool:
    """Whether `key` has our prefix, length, alphabet and checksum. Costs no I/O, so junk is refused for free."""
    start = len(prefix) + 6
    if len(key) != start + RANDOM_LENGTH + CHECKSUM_LENGTH or key[:start] != f"{prefix}_live_".encode():
        return False
    return not key[start:].translate(None, _ALPHABET_BYTES) and key[-6:] == _checksum(key[:-6]).encode()


def digest(key: bytes, pepper: bytes) -> bytes:
    """The 32 bytes under which a key is stored and looked up: HMAC-SHA-256 under the pepper.

    178 random bits need no slow hash; the pepper keeps a stolen table useless.
    """
    return hmac.digest(pepper, key, "sha256")


def foreign_digest(key: bytes) -> bytes:
    """The 32 bytes by which systems that we take keys over from know them: SHA-256, as of Unkey's `migrateKeys`."""
    return hashlib.sha256(key).digest()


def digests(key: bytes, peppers: Mapping[int, bytes]) -> dict[int, bytes]:
    """The digest under every pepper version in force, newest first."""
    return {version: digest(key, peppers[version]) for version in sorted(peppers, reverse=True)}


def lookup_digests(prefix: str, key: bytes, peppers: Mapping[int, bytes]) -> list[bytes]:
    """All digests under which a key may be stored; none for one that looks like ours and is not.

    A key of another form may be an imported one, by any of its digests.
    """
    if key.startswith(f"{prefix}_live_".encode()):
        return list(digests(key, peppers).values()) if is_well_formed(prefix, key) else []
    return [*digests(key, peppers).values(), foreign_digest(key)]


def check(key: Key, now: datetime, *, client_ip: str | None) -> None:
    """Raises Refused if the key may not be used at `now` from `client_ip`; None is an address nobody asked about."""
    if key.status is KeyStatus.REVOKED:
        raise Refused(Refusal.KEY_REVOKED, "This API key has been revoked.")
    if key.expires_at is not None and key.expires_at <= now:
        raise Refused(Refusal.KEY_EXPIRED, f"This API key expired at {key.expires_at.isoformat()}.")
    if key.status is KeyStatus.DISABLED:
        raise Refused(Refusal.KEY_DISABLED, "This API key is disabled.")
    if key.allowed_ips and client_ip is not None and not _address_allowed(key.allowed_ips, client_ip):
        raise Refused(Refusal.IP_NOT_ALLOWED, "This API key may not be used from this address.")


def is_bound(key: Key) -> bool:
    """Whether it depends on the moment or the address if the key may be used."""
    return key.expires_at is not None or bool(key.allowed_ips)


def _address_allowed(allowed: tuple[str, ...], client_ip: str) -> bool:
    try:
        address = ip_address(client_ip)
    except ValueError:
        return False
    return any(address in ip_network(network) for network in allowed)


def _checksum(body: bytes) -> str:
    return _base62(crc32(body), CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
