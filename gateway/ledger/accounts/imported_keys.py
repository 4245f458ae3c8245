"""Keys of another system, taken over so that its customers keep them.

A key is unknown until it is used, unless the other system stores it in the clear. Keys of another form than ours have
no checksum: they are looked up only if they begin like an imported key, and the first use of a key that is known by a
plain SHA-256 stores its HMAC instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import api_keys, users
from gateway.ledger.accounts.api_keys import ApiKey, Fingerprint, NewKeySettings
from gateway.ledger.catalogue import permissions
from gateway.ledger.db.errors import NotFound
from policies.access.keys import digest
from policies.model import KeyScheme


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A key by its digest. `prefix` is how the key begins, exactly; `pepper_version` is that of an HMAC."""

    digest: bytes
    prefix: str
    last4: str
    scheme: KeyScheme
    pepper_version: int


def in_the_clear(secret: str, *, prefix: str, peppers: Mapping[int, bytes]) -> ForeignKey:
    """A key that is known itself: under the newest pepper."""
    version = max(peppers)
    hashed = digest(secret.encode(), peppers[version])
    return ForeignKey(
        digest=hashed, prefix=prefix, last4=secret[-4:], scheme=KeyScheme.HMAC_SHA256, pepper_version=version
    )


async def create(
    connection: AsyncConnection,
    user_id: UUID,
    *,
    key: ForeignKey,
    own_prefix: str,
    **settings: Unpack[NewKeySettings],
) -> ApiKey:
    """`own_prefix` is the `keys.prefix` of this gateway, by which its own keys are told from foreign ones.

    Raises NotFound for an unknown user or permission, AlreadyExists for a known digest.
    """
    if await users.get(connection, user_id) is None:
        raise NotFound("user", user_id)
    if unknown := await permissions.find_unknown(connection, settings.get("permissions") or ()):
        raise NotFound("permission", f"has the name {', '.join(unknown)}")
    fingerprint = Fingerprint(
        key.prefix,
        key.last4,
        key.digest,
        key.pepper_version,
        hash_scheme=key.scheme,
        is_foreign=not key.prefix.startswith(f"{own_prefix}_live_"),
    )
    return await api_keys.create(connection, user_id, fingerprint=fingerprint, **settings)
