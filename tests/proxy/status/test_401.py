"""401: the key is unknown, or no longer valid."""

from __future__ import annotations

from datetime import timedelta
from secrets import token_bytes

import pytest

from gateway.clock import now
from gateway.ledger.accounts import api_keys
from policies.access.keys import ENTROPY_BYTES, compose
from tests.proxy.data_plane import DataPlane
from tests.proxy.problems import assert_problem


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Basic dTpw"}, {"authorization": "Bearer"}, {"x-api-key": ""}],
)
async def test_missing_key_says_how_to_send_one(data_plane: DataPlane, headers: dict[str, str]) -> None:
    document = assert_problem(await data_plane.http.get("/v1/things/1", headers=headers), 401, "missing_key")
    assert "X-API-Key" in document["detail"]


@pytest.mark.parametrize(
    "key",
    [
        "junk",
        "gw_live_",
        "gw_live_" + "0" * 36,
        "gw_live_" + "a" * 35 + "é",
        "sk_live_" + "a" * 36,
        "gw_live_" + "a" * 36 + "a",
    ],
)
async def test_malformed_key_is_invalid_without_any_io(data_plane: DataPlane, key: str) -> None:
    loads = data_plane.handler._principals._loads
    answer = await data_plane.http.get("/v1/things/1", headers={b"x-api-key": key.encode()})
    assert_problem(answer, 401, "invalid_key")
    assert not loads
    assert data_plane.upstream.exchanges == []


async def test_well_formed_unknown_key_is_invalid(data_plane: DataPlane) -> None:
    key = compose("gw", token_bytes(ENTROPY_BYTES)).secret
    for _ in range(2):
        assert_problem(await data_plane.http.get("/v1/things/1", headers={"x-api-key": key}), 401, "invalid_key")
    assert data_plane.upstream.exchanges == []


async def test_revoked_key_is_refused(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.database.transaction() as connection:
        await api_keys.revoke(connection, account.key_id)
    async with data_plane.assert_unchanged(account):
        assert_problem(await data_plane.get(account), 401, "key_revoked")
    assert await data_plane.refusal_counts(account) == {("things", "key_revoked"): 1}


async def test_expired_key_is_refused(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(key={"expires_at": now() - timedelta(seconds=1)})
    async with data_plane.assert_unchanged(account):
        assert_problem(await data_plane.get(account), 401, "key_expired")


async def test_bearer_scheme_is_read_in_any_case(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = {"authorization": f"{scheme} {account.key}"}
        assert (await data_plane.http.get("/v1/things/1", headers=headers)).status_code == 200
