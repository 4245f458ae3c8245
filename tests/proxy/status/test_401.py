"""401: who asks is not known, or the key is of no use any more."""

from __future__ import annotations

from datetime import timedelta
from secrets import token_bytes

import pytest

from gateway.clock import now
from gateway.ledger.accounts import api_keys
from policies.access.keys import ENTROPY_BYTES, compose
from tests.proxy.data_plane import Plane
from tests.proxy.problems import assert_problem


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Basic dTpw"}, {"authorization": "Bearer"}, {"x-api-key": ""}],
)
async def test_a_request_without_a_key_is_told_how_to_send_one(plane: Plane, headers: dict[str, str]) -> None:
    document = assert_problem(await plane.http.get("/v1/things/1", headers=headers), 401, "missing_key")
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
async def test_a_malformed_key_is_invalid_without_any_io(plane: Plane, key: str) -> None:
    loads = plane.handler._principals._loads
    answer = await plane.http.get("/v1/things/1", headers={b"x-api-key": key.encode()})
    assert_problem(answer, 401, "invalid_key")
    assert not loads
    assert plane.upstream.exchanges == []


async def test_a_well_formed_key_that_nobody_has_is_invalid(plane: Plane) -> None:
    key = compose("gw", token_bytes(ENTROPY_BYTES)).secret
    for _ in range(2):
        assert_problem(await plane.http.get("/v1/things/1", headers={"x-api-key": key}), 401, "invalid_key")
    assert plane.upstream.exchanges == []


async def test_a_revoked_key_is_refused(plane: Plane) -> None:
    account = await plane.account()
    async with plane.database.transaction() as connection:
        await api_keys.revoke(connection, account.key_id)
    async with plane.untouched(account):
        assert_problem(await plane.get(account), 401, "key_revoked")
    assert await plane.refusals(account) == {("things", "key_revoked"): 1}


async def test_an_expired_key_is_refused(plane: Plane) -> None:
    account = await plane.account(key={"expires_at": now() - timedelta(seconds=1)})
    async with plane.untouched(account):
        assert_problem(await plane.get(account), 401, "key_expired")


async def test_the_scheme_bearer_is_read_in_any_case(plane: Plane) -> None:
    account = await plane.account()
    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = {"authorization": f"{scheme} {account.key}"}
        assert (await plane.http.get("/v1/things/1", headers=headers)).status_code == 200
