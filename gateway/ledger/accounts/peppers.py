"""Fingerprints of the peppers under which this database has digests, so that no process starts with another one.

Another pepper makes every key unknown, and the entries of the audit log look changed. A fingerprint tells nothing of
its pepper, which is random.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.tables import pepper_fingerprints

_SUBJECT = b"the fingerprint of a pepper"

_MISSING = text("""
    SELECT DISTINCT pepper_version FROM api_keys
     WHERE status = 'active' AND pepper_version IS NOT NULL AND pepper_version <> ALL (CAST(:versions AS int[]))
     ORDER BY 1
""")


class WrongPepper(Exception):  # noqa: N818 - named for the condition
    """A pepper is another one than that under which the database has digests; the message names its version."""


def fingerprint(pepper: bytes) -> bytes:
    return hmac.digest(pepper, _SUBJECT, "sha256")


async def check(connection: AsyncConnection, peppers: Mapping[int, bytes]) -> None:
    """Stores the fingerprints of versions that are new to the database. Raises WrongPepper."""
    given = {version: fingerprint(pepper) for version, pepper in peppers.items()}
    stored = await _stored(connection)
    if missing := given.keys() - stored.keys():
        rows = [{"version": version, "fingerprint": given[version]} for version in missing]
        await connection.execute(insert(pepper_fingerprints).values(rows).on_conflict_do_nothing())
        stored = await _stored(connection)
    for version in sorted(given):
        if not hmac.compare_digest(given[version], stored[version]):
            raise WrongPepper(
                f"GATEWAY_KEY_PEPPER: version {version} is not the pepper under which this database has its keys;"
                " every key would be unknown. Restore the pepper (embedded stores keep it in data_dir/secrets.json)"
            )


async def list_missing(connection: AsyncConnection, peppers: Mapping[int, bytes]) -> tuple[int, ...]:
    """The versions of peppers that active keys need and `peppers` does not have."""
    return tuple(await connection.scalars(_MISSING, {"versions": list(peppers)}))


async def _stored(connection: AsyncConnection) -> dict[int, bytes]:
    rows = await connection.execute(select(pepper_fingerprints.c.version, pepper_fingerprints.c.fingerprint))
    return {row.version: row.fingerprint for row in rows}
