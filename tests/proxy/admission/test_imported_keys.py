"""Imported keys work unchanged; junk costs no query of its own."""

from __future__ import annotations

import asyncio
import hashlib
from uuid import uuid4

import pytest
from sqlalchemy import event

from gateway.ledger.accounts import api_keys, principals
from gateway.ledger.accounts.api_keys import Fingerprint
from gateway.ledger.accounts.key_lookup import ImportedKeys
from gateway.ledger.db.session import DatabaseUnavailable
from policies.access.keys import digest
from policies.model import KeyScheme
from tests.proxy.data_plane import Account, DataPlane
from tests.proxy.problems import assert_problem


async def import_key(data_plane: DataPlane, account: Account, key: str, *, scheme: KeyScheme) -> api_keys.ApiKey:
    pepper = data_plane.config.secrets.peppers[1]
    known_by = hashlib.sha256(key.encode()).digest() if scheme is KeyScheme.SHA256 else digest(key.encode(), pepper)
    fingerprint = Fingerprint(key[:5], key[-4:], known_by, 1, hash_scheme=scheme, is_foreign=True)
    async with data_plane.database.transaction() as connection:
        made = await api_keys.create(connection, account.user_id, fingerprint=fingerprint)
    data_plane.handler._principals._imported_keys._refresh_at = 0  # as it is a second later
    return made


@pytest.mark.parametrize("scheme", KeyScheme)
async def test_imported_key_is_rehashed_at_its_first_use(data_plane: DataPlane, scheme: KeyScheme) -> None:
    account, key = await data_plane.create_account(), f"acme-{uuid4().hex}"
    await import_key(data_plane, account, key, scheme=scheme)
    for _ in range(2):
        assert (await data_plane.http.get("/v1/things/1", headers={"x-api-key": key})).status_code == 200
    async with data_plane.database.read() as connection:
        prefixes = await api_keys.list_imported_prefixes(connection)
        found = await principals.find_principal(connection, digest(key.encode(), data_plane.config.secrets.peppers[1]))
    assert "acme-" in prefixes
    assert found is not None
    assert found.account.id == account.user_id


async def test_revoked_imported_key_is_refused_on_the_next_request(data_plane: DataPlane) -> None:
    account, key = await data_plane.create_account(), f"acme-{uuid4().hex}"
    made = await import_key(data_plane, account, key, scheme=KeyScheme.SHA256)
    assert (await data_plane.http.get("/v1/things/1", headers={"x-api-key": key})).status_code == 200
    async with data_plane.database.transaction() as connection:
        await api_keys.revoke(connection, made.id)
    await data_plane.publish()
    assert_problem(await data_plane.http.get("/v1/things/1", headers={"x-api-key": key}), 401, "key_revoked")


async def test_thousand_keys_of_unknown_prefixes_cost_one_query(data_plane: DataPlane) -> None:
    statements: list[str] = []
    engine = data_plane.database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    imported_keys = ImportedKeys(data_plane.database, own_prefix=b"gw_live_")
    for number in range(1000):
        assert not await imported_keys.may_include(b"junk-%d" % number)
        assert not await imported_keys.may_include(b"gw_live_%d" % number)
    assert len(statements) == 1


async def test_keys_that_come_while_prefixes_are_read_wait_for_them(data_plane: DataPlane) -> None:
    account, key = await data_plane.create_account(), f"acme-{uuid4().hex}"
    await import_key(data_plane, account, key, scheme=KeyScheme.SHA256)
    imported_keys = ImportedKeys(data_plane.database, own_prefix=b"gw_live_")
    assert await asyncio.gather(*(imported_keys.may_include(key.encode()) for _ in range(5))) == [True] * 5


async def test_keys_are_not_called_unknown_before_prefixes_could_be_read(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported_keys = ImportedKeys(data_plane.database, own_prefix=b"gw_live_")

    async def away(_: object) -> tuple[str, ...]:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(api_keys, "list_imported_prefixes", away)
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            await imported_keys.may_include(b"acme-1")
