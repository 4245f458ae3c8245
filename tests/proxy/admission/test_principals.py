"""Principals: found under any pepper, cached, loaded once, and named to the upstream in plain fields."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from secrets import token_bytes
from typing import NoReturn
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import paced_subjects
from gateway.ledger.accounts import api_keys
from gateway.ledger.db.session import Database, PoolBusy
from gateway.meter.client.client import RedisClient
from gateway.meter.meter import Meter
from gateway.proxy.admission.caller import Caller, identity_block
from gateway.proxy.admission.principal_cache import PrincipalCache
from policies.access.keys import ENTROPY_BYTES, compose
from policies.access.throttling import UNKNOWN_KEYS_FROM_ADDRESS
from policies.model import (
    Account,
    AccountStatus,
    FeatureValue,
    Key,
    KeyStatus,
    Plan,
    Principal,
    Refusal,
    Refused,
    Subscription,
    SubscriptionStatus,
)
from tests.proxy.data_plane import DataPlane


def principals_of(database: Database, redis_client: RedisClient, peppers: dict[int, bytes]) -> PrincipalCache:
    return PrincipalCache(
        database,
        Meter(redis_client, partitions=4, owner="test"),
        prefix="gw",
        peppers=peppers,
        max_entries=100,
        max_age_seconds=60,
        max_stale_seconds=60,
    )


async def test_key_is_found_under_the_pepper_it_was_made_with(data_plane: DataPlane, redis_client: RedisClient) -> None:
    account = await data_plane.create_account()
    rotated = principals_of(data_plane.database, redis_client, {1: b"p" * 32, 2: b"a newer one"})
    for _ in range(2):
        caller = await rotated.get(account.key.encode())
        assert caller.principal.key.id == account.key_id


async def test_key_made_with_the_newer_pepper_is_found_by_it(data_plane: DataPlane, redis_client: RedisClient) -> None:
    account = await data_plane.create_account()
    new = compose("gw", token_bytes(ENTROPY_BYTES))
    peppers = {1: b"p" * 32, 2: b"a newer one"}
    async with data_plane.database.transaction() as connection:
        await api_keys.create(connection, account.user_id, fingerprint=api_keys.fingerprint(new, peppers))
    assert (
        await principals_of(data_plane.database, redis_client, peppers).get(new.secret.encode())
    ).principal.account.id
    with pytest.raises(Refused) as caught:
        await principals_of(data_plane.database, redis_client, {1: b"p" * 32}).get(new.secret.encode())
    assert caught.value.code is Refusal.INVALID_KEY


async def test_database_outage_fails_all_waiting_calls_and_delays_the_next_query(
    data_plane: DataPlane, redis_client: RedisClient
) -> None:
    account = await data_plane.create_account()
    nobody = Database("postgresql://u:p@127.0.0.1:1/none")
    principals = principals_of(nobody, redis_client, {1: b"p" * 32})
    asked = await asyncio.gather(*(principals.get(account.key.encode()) for _ in range(5)), return_exceptions=True)
    assert [each.code for each in asked if isinstance(each, Refused)] == [Refusal.ACCOUNTS_UNAVAILABLE] * 5
    principals._database = principals._stored_keys._database = data_plane.database
    with pytest.raises(Refused, match="cannot be read"):
        await principals.get(account.key.encode())

    principals._retry_at = 0.0
    assert (await principals.get(account.key.encode())).principal.account.id == account.user_id
    await nobody.close()


async def test_cancelled_wait_does_not_cancel_the_principal_load_of_others(
    data_plane: DataPlane, redis_client: RedisClient
) -> None:
    account = await data_plane.create_account()
    principals = principals_of(data_plane.database, redis_client, {1: b"p" * 32})
    first, second = (asyncio.create_task(principals.get(account.key.encode())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).principal.account.id == account.user_id
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_principal_cache_repr_shows_no_key(data_plane: DataPlane, redis_client: RedisClient) -> None:
    account = await data_plane.create_account()
    principals = principals_of(data_plane.database, redis_client, {1: b"p" * 32})
    await principals.get(account.key.encode())
    assert repr(principals) == "<PrincipalCache 1 cached, 0 loading>"


PLAN = Plan(id="pro", name="pro", version=1, features={})


def principal_on(plan: Plan | None) -> tuple[Principal, Subscription | None]:
    subscription = None if plan is None else Subscription(uuid4(), SubscriptionStatus.ACTIVE, plan)
    account = Account(uuid4(), AccountStatus.ACTIVE, subscription)
    return Principal(Key(uuid4(), KeyStatus.ACTIVE, "gw", "wxyz"), account, 1, 1), subscription


_features = st.dictionaries(
    st.text(max_size=8), st.one_of(st.booleans(), st.integers(), st.text(max_size=8)), max_size=6
)


@given(st.text(max_size=20), _features)
def test_identity_block_is_four_whole_fields_for_any_plan_name(name: str, features: dict[str, FeatureValue]) -> None:
    block = identity_block(*principal_on(replace(PLAN, name=name, features=features)))
    lines = block.split(b"\r\n")
    assert [line.partition(b":")[0] for line in lines] == [
        b"x-gateway-user",
        b"x-gateway-key",
        b"x-gateway-plan",
        b"x-gateway-features",
        b"",
    ]
    assert all(0x20 <= octet <= 0x7E for line in lines for octet in line)
    told = lines[3].partition(b": ")[2]
    truthy = [value for value in features.values() if value]
    assert len(told.split(b",")) == max(1, len(truthy))


def test_identity_block_of_an_account_without_a_plan_has_empty_fields() -> None:
    block = identity_block(*principal_on(None))
    assert block.endswith(b"x-gateway-plan: \r\nx-gateway-features: \r\n")


async def test_unknown_keys_of_an_address_are_looked_up_at_a_pace(
    data_plane: DataPlane, redis_client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paced_subjects, "monotonic_seconds", lambda: 1000.0)
    account = await data_plane.create_account()
    principals = principals_of(data_plane.database, redis_client, {1: b"p" * 32})
    guesses = [
        compose("gw", token_bytes(ENTROPY_BYTES)).secret.encode() for _ in range(UNKNOWN_KEYS_FROM_ADDRESS.burst + 20)
    ]
    asked = await asyncio.gather(
        *(principals.get(guess, address="::ffff:192.0.2.1") for guess in guesses),
        principals.get(account.key.encode(), address="::ffff:198.51.100.1"),
        return_exceptions=True,
    )
    codes = Counter(each.code for each in asked if isinstance(each, Refused))
    assert codes == {Refusal.INVALID_KEY: UNKNOWN_KEYS_FROM_ADDRESS.burst, Refusal.RATE_LIMITED: 20}
    assert isinstance(asked[-1], Caller), "another address is served beside the guesses"
    assert (await principals.get(account.key.encode(), address="192.0.2.1")).key_id == account.key_id


async def test_unknown_keys_are_refused_while_the_pool_is_busy(
    data_plane: DataPlane, redis_client: RedisClient
) -> None:
    database = Database(data_plane.database.url, pool_size=1)
    principals = principals_of(database, redis_client, {1: b"p" * 32})
    async with database.read():
        with pytest.raises(Refused) as refused:
            await principals.get(compose("gw", token_bytes(ENTROPY_BYTES)).secret.encode())
    assert refused.value.code is Refusal.INVALID_KEY
    await database.close()


async def test_known_keys_cost_their_address_no_pace(data_plane: DataPlane, redis_client: RedisClient) -> None:
    account = await data_plane.create_account()
    principals = principals_of(data_plane.database, redis_client, {1: b"p" * 32})
    for _ in range(UNKNOWN_KEYS_FROM_ADDRESS.burst + 5):
        principals._callers.clear()
        caller = await principals.get(account.key.encode(), address="192.0.2.1")
        assert caller.key_id == account.key_id


async def test_first_calls_by_a_known_key_are_one_look_up_of_its_address(
    data_plane: DataPlane, redis_client: RedisClient
) -> None:
    account = await data_plane.create_account()
    principals = principals_of(data_plane.database, redis_client, {1: b"p" * 32})
    calls = 2 * UNKNOWN_KEYS_FROM_ADDRESS.burst
    callers = await asyncio.gather(*(principals.get(account.key.encode(), address="192.0.2.1") for _ in range(calls)))
    assert {caller.key_id for caller in callers} == {account.key_id}


async def test_busy_pool_is_no_outage(data_plane: DataPlane, redis_client: RedisClient) -> None:
    account = await data_plane.create_account()
    principals = principals_of(data_plane.database, redis_client, {1: b"p" * 32})

    class Busy:
        def look_up(self) -> NoReturn:
            raise PoolBusy("every connection of the pool is busy")

    database, principals._database = principals._database, Busy()  # type: ignore[assignment] # a pool that is busy
    with pytest.raises(Refused) as refused:
        await principals.get(account.key.encode())
    assert refused.value.code is Refusal.ACCOUNTS_UNAVAILABLE
    principals._database = database
    assert (await principals.get(account.key.encode())).key_id == account.key_id
