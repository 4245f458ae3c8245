"""One link to three masters: every command reaches its keys, wherever they move, and is never run twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.meter.client.client import RedisClient
from gateway.meter.client.cluster import Cluster
from gateway.meter.client.errors import MeterError, MeterUnavailable, NotSent, UnsupportedServer
from gateway.meter.client.topology import key_slot
from gateway.meter.holds import Holds
from gateway.meter.idempotency import ClaimOutcome, IdempotencyClaim
from gateway.meter.journal import START, Journal
from gateway.meter.meter import Meter
from gateway.meter.replay_buffer import Settlement
from gateway.meter.replies import LoadResult, Verdict
from policies.access.limits import Limits
from policies.usage.records import prefix_of
from tests.guarantees.faults.cluster import URL_PASSWORD, ClusterServers, move_key, until_master
from tests.meter.client.cluster_load import COUNT, TIMEOUT_SECONDS, Load, opened, tagged
from tests.meter.conftest import OwnServer
from tests.support.polling import eventually


@pytest.fixture
async def redis_client(cluster: ClusterServers) -> AsyncIterator[RedisClient]:
    """A patient one, for what all servers answer."""
    async with opened(cluster, timeout_seconds=5.0) as redis_client:
        yield redis_client


@pytest.fixture
async def hasty(cluster: ClusterServers) -> AsyncIterator[RedisClient]:
    async with opened(cluster, timeout_seconds=TIMEOUT_SECONDS) as redis_client:
        yield redis_client


async def test_cluster_runs_commands_and_scripts_on_the_master_of_their_keys(
    redis_client: RedisClient, cluster: ClusterServers
) -> None:
    tags = [uuid4() for _ in range(100)]
    keys = [(tagged(tag, "one"), tagged(tag, "two")) for tag in tags]
    assert await asyncio.gather(*(redis_client.run(COUNT, pair, ()) for pair in keys)) == [1] * 100
    assert await redis_client.pipeline([(b"GET", one) for one, _ in keys]) == [b"1"] * 100
    assert {await cluster.owner(one) for one, _ in keys} == set(await cluster.masters())


async def test_cluster_runs_a_command_without_a_key_on_any_node(redis_client: RedisClient) -> None:
    assert await redis_client.call((b"PING",)) == b"PONG"
    assert await redis_client.call((b"EVAL", "return 7", 0)) == 7


async def test_keys_of_two_slots_in_one_command_are_an_error(redis_client: RedisClient) -> None:
    with pytest.raises(MeterError, match="CROSSSLOT"):
        await redis_client.call((b"DEL", tagged("one"), tagged("two")))


async def test_server_without_a_script_gets_its_source(redis_client: RedisClient, cluster: ClusterServers) -> None:
    for server in await cluster.masters():
        await server.ask("SCRIPT", "FLUSH")
    tags = [uuid4() for _ in range(20)]
    assert await asyncio.gather(
        *(redis_client.run(COUNT, (tagged(tag, "1"), tagged(tag, "2")), ()) for tag in tags)
    ) == [1] * len(tags)


async def test_wrong_slot_map_is_corrected_by_redirections(redis_client: RedisClient) -> None:
    server = redis_client._server
    assert isinstance(server, Cluster)
    rotated = list(server._nodes)[1:] + list(server._nodes)[:1]
    wrong = dict(zip(server._nodes, rotated, strict=True))
    server._owners = [wrong[owner] for owner in server._owners if owner is not None]
    server._routes.clear()
    keys = [tagged(uuid4()) for _ in range(30)]
    assert await redis_client.pipeline([(b"INCR", key) for key in keys]) == [1] * 30
    await eventually(lambda: server._refreshing is None)
    assert server._owners[0] != wrong[server._owners[0]]  # type: ignore[index] # it is known again


async def test_accounts_of_all_partitions_are_metered_on_a_cluster(redis_client: RedisClient) -> None:
    meter, holds, journal = (
        Meter(redis_client, partitions=16, owner="gw-1"),
        Holds(redis_client, 16),
        Journal(redis_client, 16),
    )
    calls = [(meter.keys(UUID(int=number)), str(uuid4())) for number in range(32)]
    nothing = Limits((None, None, None), None)
    for keys, _ in calls:
        assert (
            await meter.load(keys, account_version=1, credit_seq=0, balance=10, catalogue_version=1)
            is LoadResult.LOADED
        )
    admissions = await asyncio.gather(
        *(
            meter.admit(
                keys,
                request_id=request_id,
                account_version=1,
                catalogue_version=1,
                amount=3,
                required=3,
                limits=nothing,
                prefix=prefix_of({"request_id": request_id}),
            )
            for keys, request_id in calls
        )
    )
    assert {(admission.verdict, admission.balance) for admission in admissions} == {(Verdict.ADMITTED, 7)}
    assert await holds.count() == 32
    await holds.renew_heartbeat("gw-1")
    assert await holds.live_owners(["gw-1", "gw-2"]) == {"gw-1"}
    settled = await asyncio.gather(*(meter.settle(Settlement(keys, call, 1, "end")) for keys, call in calls))
    assert set(settled) == {9}
    assert await journal.lengths() == dict.fromkeys(range(16), 2)
    batches = await journal.read(dict.fromkeys(range(16), START), 100)
    assert [len(batch.entries) for batch in batches.values()] == [2] * 16
    await journal.trim({partition: batch.last_id for partition, batch in batches.items()})
    await (await meter.publication()).raise_catalogue_version(2)
    assert await journal.length() == await holds.count() == 0
    assert {(await meter.versions(keys)).catalogue for keys, _ in calls} == {2}


async def test_idempotent_replay_is_known_in_every_partition(redis_client: RedisClient) -> None:
    meter, claim = Meter(redis_client, partitions=32, owner="gw-1"), IdempotencyClaim(uuid4().hex, "f" * 64)

    async def ask(number: int) -> tuple[Verdict, Verdict, bytes]:
        keys, request_id = meter.keys(UUID(int=number)), str(uuid4())
        await meter.load(keys, account_version=1, credit_seq=0, balance=10, catalogue_version=1)
        terms: dict[str, Any] = {"account_version": 1, "catalogue_version": 1, "amount": 3, "required": 3}
        terms |= {"limits": Limits((None, None, None), None), "prefix": "prefix", "claim": claim}
        await meter.admit(keys, request_id=request_id, **terms)
        running = await meter.admit(keys, request_id=str(uuid4()), **terms)
        await meter.settle(Settlement(keys, request_id, 3, "end", claim_outcome=ClaimOutcome(claim, b"response")))
        ended = await meter.admit(keys, request_id=str(uuid4()), **terms)
        return running.verdict, ended.verdict, ended.stored_response

    answers = await asyncio.gather(*map(ask, range(16, 32)))
    assert set(answers) == {(Verdict.IN_PROGRESS, Verdict.IDEMPOTENT_REPLAY, b"response")}


async def _tag_of_an_empty_slot(cluster: ClusterServers) -> UUID:
    """Tests before this one leave keys in a hundredth of all slots, and a slot with other keys cannot be given away."""
    while True:
        key = tagged(tag := uuid4())
        owner = await cluster.owner(key)
        if not await owner.ask("CLUSTER", "COUNTKEYSINSLOT", key_slot(key)):
            return tag


async def test_slot_migration_under_load_loses_and_repeats_nothing(hasty: RedisClient, cluster: ClusterServers) -> None:
    load = Load(hasty, await _tag_of_an_empty_slot(cluster))
    one, two = load.keys
    await load.does(50)
    source = await cluster.owner(one)
    target = next(server for server in await cluster.masters() if server is not source)
    await cluster.begin_to_move(one, to=target)
    await load.does(50)  # both keys are there still
    await move_key(one, source, to=target)
    await load.is_refused()  # one here, one there: TRYAGAIN until time is up
    await move_key(two, source, to=target)
    await load.does(50)  # by ASK
    await cluster.end_to_move(one, to=target)
    await load.does(50)  # by MOVED, then at once
    await load.is_counted()
    assert load.longest_seconds < 2 * TIMEOUT_SECONDS


async def test_demoted_master_is_replaced_by_the_promoted_replica(hasty: RedisClient, cluster: ClusterServers) -> None:
    load = Load(hasty, uuid4())
    await load.does(20)
    replica = await cluster.replica_of(await cluster.owner(load.keys[0]))
    await replica.ask("CLUSTER", "FAILOVER")
    await until_master(replica)
    await load.does(50)
    await load.is_counted()
    await cluster.settled()
    assert await cluster.owner(load.keys[0]) is replica


async def test_url_of_the_wrong_mode_is_refused_by_name(cluster: ClusterServers, server: OwnServer) -> None:
    with pytest.raises(UnsupportedServer, match="is no node of a cluster"):
        await RedisClient(server.url.replace("redis://", "redis+cluster://"), timeout_seconds=1).open()
    with pytest.raises(UnsupportedServer, match=r"redis\+cluster://"):
        await RedisClient(f"redis://:{URL_PASSWORD}@{cluster.servers[0].address}", timeout_seconds=1).open()


async def test_unreachable_cluster_fails_the_opening() -> None:
    with pytest.raises(MeterUnavailable, match="cannot connect to Redis"):
        await RedisClient("redis+cluster://127.0.0.1:1,127.0.0.1:2", timeout_seconds=1).open()


async def test_closing_a_cluster_fails_pending_calls_and_leaves_no_task(cluster: ClusterServers) -> None:
    redis_client = RedisClient(cluster.url, timeout_seconds=TIMEOUT_SECONDS)
    await redis_client.open()
    waiting = asyncio.create_task(redis_client.call((b"GET", tagged("any"))))
    await asyncio.sleep(0)
    await redis_client.close()
    with pytest.raises(MeterUnavailable, match="closed"):
        await waiting
    with pytest.raises(NotSent):
        await redis_client.call((b"GET", tagged("any")))
    assert not redis_client.is_connected
