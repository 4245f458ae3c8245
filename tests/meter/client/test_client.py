"""A reply reaches its caller or nobody, an outage is told apart from a bug, and the link always comes back."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

import pytest
import uvloop
from redis.exceptions import ResponseError

from gateway.meter.client import connection as pipe_module
from gateway.meter.client import server as node_module
from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterError, MeterUnavailable, NotSent, UnsupportedServer, failure
from gateway.meter.client.server import _check_version
from gateway.meter.scripts import Script
from tests.guarantees.faults.proxy import FaultProxy
from tests.meter.conftest import OwnServer
from tests.support.polling import eventually
from tests.support.redis_timeouts import short_redis_timeout

ANSWER = Script("return ARGV[1]")


async def _echo(redis_client: RedisClient, word: str) -> str:
    reply: bytes = await redis_client.call((b"ECHO", word))
    return reply.decode()


async def test_thousand_calls_at_once_get_their_own_replies(redis_client: RedisClient) -> None:
    key = f"test:{uuid4()}"
    assert await asyncio.gather(*(redis_client.call((b"INCR", key)) for _ in range(1000))) == list(range(1, 1001))


async def test_reply_never_reaches_another_caller_after_a_cancellation(
    redis_client: RedisClient, proxy: FaultProxy
) -> None:
    chance = random.Random(1)  # noqa: S311 - to be repeatable
    proxy.replies.delay_seconds = lambda: chance.uniform(0, 0.003)
    answered = cancelled = 0
    for _ in range(40):
        words = [uuid4().hex for _ in range(25)]
        callers = [asyncio.create_task(_echo(redis_client, word)) for word in words]
        victims = chance.sample(callers, 12)
        for victim in victims:
            await asyncio.sleep(chance.choice((0, 0, 0.0005)))
            victim.cancel()
        for word, result in zip(words, await asyncio.gather(*callers, return_exceptions=True), strict=True):
            if isinstance(result, asyncio.CancelledError):
                cancelled += 1
            else:
                answered += 1
                assert result == word
    assert answered > 100
    assert cancelled > 100


async def test_reply_that_drips_in_is_whole(redis_client: RedisClient, proxy: FaultProxy) -> None:
    proxy.replies.drip_bytes = 1
    assert await asyncio.gather(*(_echo(redis_client, f"word {n}") for n in range(20))) == [
        f"word {n}" for n in range(20)
    ]


async def test_frozen_server_times_out_and_is_reconnected(redis_client: RedisClient, proxy: FaultProxy) -> None:
    proxy.freeze()
    loop = asyncio.get_running_loop()
    started = loop.time()
    with short_redis_timeout(redis_client), pytest.raises(MeterUnavailable, match="did not answer in time"):
        await redis_client.call((b"PING",))
    assert loop.time() - started < 0.5
    with pytest.raises(MeterUnavailable, match="not connected"):
        await redis_client.call((b"PING",))  # at once: nobody waits for a server that is known to be away
    proxy.thaw()
    await eventually(lambda: redis_client.is_connected)
    assert await redis_client.call((b"PING",)) == b"PONG"


async def test_server_that_was_late_serves_again_on_its_connection_once_it_has_caught_up(
    redis_client: RedisClient, proxy: FaultProxy
) -> None:
    key = f"test:{uuid4()}"
    link = redis_client.connection(b"")
    with short_redis_timeout(redis_client, 0.5):
        for number in range(1, 4):
            proxy.freeze()
            late = [asyncio.create_task(redis_client.call((b"INCR", key))) for _ in range(10)]
            await eventually(lambda: not redis_client.is_connected)
            with pytest.raises(NotSent, match="has not answered in time"):
                await redis_client.call((b"INCR", key))
            assert all(
                isinstance(each, MeterUnavailable) for each in await asyncio.gather(*late, return_exceptions=True)
            )
            proxy.thaw()
            await eventually(lambda: redis_client.is_connected)
            assert await _echo(redis_client, f"word {number}") == f"word {number}"
            assert await redis_client.call((b"GET", key)) == b"%d" % (10 * number)
    assert redis_client.connection(b"") is link


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_loop_that_stands_still_blames_no_server(
    server: OwnServer, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Turns longer than the timeout: what was sent in one leaves in the next, and is read in the one behind that."""

    async def call_in_long_turns() -> None:
        loop = asyncio.get_running_loop()
        redis_client = RedisClient(server.url, timeout_seconds=0.03)
        await redis_client.open()
        link = redis_client.connection(b"")
        stands_still = True

        def stand_still() -> None:
            time.sleep(0.04)
            if stands_still:
                loop.call_soon(stand_still)

        loop.call_soon(stand_still)
        for number in range(5):
            assert await _echo(redis_client, f"word {number}") == f"word {number}"
        stands_still = False
        assert redis_client.connection(b"") is link
        await redis_client.close()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(call_in_long_turns())


async def test_timeout_holds_behind_a_slow_reply(redis_client: RedisClient, proxy: FaultProxy) -> None:
    proxy.replies.delay_seconds = lambda: 0.4
    loop = asyncio.get_running_loop()
    started = loop.time()
    with short_redis_timeout(redis_client):
        results = await asyncio.gather(*(redis_client.call((b"PING",)) for _ in range(50)), return_exceptions=True)
    assert loop.time() - started < 0.5
    assert all(isinstance(result, MeterUnavailable) for result in results)
    proxy.replies.delay_seconds = lambda: 0.0
    await eventually(lambda: redis_client.is_connected)


async def test_command_that_timed_out_does_not_run_after_a_reconnection(
    redis_client: RedisClient, proxy: FaultProxy, server: OwnServer
) -> None:
    key = f"test:{uuid4()}"
    proxy.freeze_present()
    with short_redis_timeout(redis_client):
        with pytest.raises(MeterUnavailable):
            await redis_client.call((b"INCR", key))
        await eventually(lambda: redis_client.is_connected)
    assert await redis_client.call((b"GET", key)) is None
    proxy.thaw()
    await eventually(lambda: proxy.connections == 1)  # the old one has delivered what it held, and ended
    assert await server.admin.get(key) is None


@pytest.mark.parametrize("end", ["cut", "reset"])
async def test_lost_connection_fails_at_once_and_is_replaced(
    redis_client: RedisClient, proxy: FaultProxy, end: str
) -> None:
    proxy.replies.delay_seconds = lambda: 0.2
    waiting = asyncio.create_task(redis_client.call((b"PING",)))
    await asyncio.sleep(0)
    await asyncio.sleep(0.01)  # the command is on its way
    loop = asyncio.get_running_loop()
    started = loop.time()
    getattr(proxy, end)()
    with pytest.raises(MeterUnavailable, match="connection to Redis lost"):
        await waiting
    assert loop.time() - started < 0.15
    proxy.replies.delay_seconds = lambda: 0.0
    await eventually(lambda: redis_client.is_connected)
    assert await redis_client.call((b"PING",)) == b"PONG"


async def test_garbage_closes_the_connection_and_reaches_no_caller(
    redis_client: RedisClient, proxy: FaultProxy
) -> None:
    proxy.replies.garble = True
    with pytest.raises(MeterUnavailable, match="invalid reply"):
        await redis_client.call((b"PING",))
    await asyncio.sleep(0.1)  # attempts to reconnect meet garbage too
    assert not redis_client.is_connected
    proxy.replies.garble = False
    await eventually(lambda: redis_client.is_connected)


async def test_server_without_a_script_gets_its_source(redis_client: RedisClient, server: OwnServer) -> None:
    await server.admin.script_flush()
    results = await asyncio.gather(*(redis_client.run(ANSWER, (), (n,)) for n in range(10)))
    assert results == [str(n).encode() for n in range(10)]
    (is_known,) = await server.admin.script_exists(ANSWER.sha.decode())
    assert is_known


async def test_too_many_pending_commands_are_refused(
    redis_client: RedisClient, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe_module, "MAX_PENDING", 3)
    proxy.freeze()
    with short_redis_timeout(redis_client):
        waiting = [asyncio.create_task(redis_client.call((b"PING",))) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(MeterUnavailable, match="does not keep up"):
            await redis_client.call((b"PING",))
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(each, MeterUnavailable) for each in results)
    proxy.thaw()


async def test_pipeline_raises_its_first_failure(redis_client: RedisClient) -> None:
    key = f"test:{uuid4()}"
    with pytest.raises(MeterError, match="wrong number of arguments"):
        await redis_client.pipeline([(b"SET", key, "x"), (b"GET",), (b"GET", key)])
    assert await redis_client.pipeline([(b"GET", key), (b"PING",)]) == [b"x", b"PONG"]


async def test_rejected_command_is_an_error_and_keeps_the_connection(redis_client: RedisClient) -> None:
    with pytest.raises(MeterError, match="unknown command"):
        await redis_client.call((b"NONSENSE",))
    with pytest.raises(MeterError, match="oops"):
        await redis_client.run(Script("return redis.error_reply('ERR oops')"), (), ())
    assert redis_client.is_connected


@pytest.mark.parametrize(
    "message",
    [
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MISCONF Errors writing to the AOF file: No space left on device",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "NOREPLICAS Not enough good replicas to write.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "NOAUTH Authentication required.",
        "ERR Error running script (call to f_3a): @user_script:94: @user_script: 94: -OOM command not allowed",
    ],
)
def test_reply_of_an_outage_is_unavailable(message: str) -> None:
    assert isinstance(failure(message), NotSent), "it has not run, so nobody owes anything"


@pytest.mark.parametrize(
    "message",
    [
        "NOSCRIPT No matching script. Please use EVAL.",
        "NOPERM this user has no permissions to run the 'evalsha' command",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "ERR Error running script (call to f_3a): @user_script:9: attempt to index nil: BUSY",
    ],
)
def test_reply_of_a_bug_is_an_error(message: str) -> None:
    assert isinstance(failure(message), MeterError)


async def test_full_server_is_unavailable_and_changes_nothing(redis_client: RedisClient, server: OwnServer) -> None:
    write = Script("redis.call('SET', KEYS[1], 'x') return 1")
    key = f"test:{uuid4()}".encode()
    await server.admin.config_set("maxmemory", 1)
    try:
        with pytest.raises(NotSent, match="OOM"):
            await redis_client.run(write, (key,), ())
    finally:
        await server.admin.config_set("maxmemory", 0)
    assert await redis_client.call((b"GET", key)) is None
    assert await redis_client.run(write, (key,), ()) == 1


async def test_busy_server_is_unavailable(redis_client: RedisClient, server: OwnServer) -> None:
    await server.admin.config_set("busy-reply-threshold", 10)
    endless = asyncio.create_task(redis_client.call((b"EVAL", "while true do end", 0)))
    try:
        with pytest.raises(MeterUnavailable, match="BUSY"):
            await _call_until_it_fails(server)
    finally:
        await _end_script(server)
    with pytest.raises((MeterError, MeterUnavailable)):
        await endless


async def _end_script(server: OwnServer) -> None:
    await server.admin.script_kill()
    async with asyncio.timeout(10):
        while True:  # the script ends when it next looks up
            with suppress(ResponseError):
                await server.admin.config_set("busy-reply-threshold", 5000)
                return


async def _call_until_it_fails(server: OwnServer) -> None:
    """On connections of their own: on the one that runs the script the answer waits behind it."""
    async with asyncio.timeout(10):
        while True:
            other = RedisClient(server.url, timeout_seconds=5)
            try:
                await other.open()
                await other.call((b"GET", "test:any"))
            finally:
                await other.close()


async def test_demoted_primary_is_unavailable_until_it_is_promoted(
    redis_client: RedisClient, server: OwnServer
) -> None:
    await server.admin.replicaof("127.0.0.1", 1)
    try:
        with pytest.raises(MeterUnavailable, match="READONLY"):
            await redis_client.call((b"SET", "test:any", "x"))
        assert not redis_client.is_connected
        with pytest.raises(MeterUnavailable, match="read-only replica"):
            await RedisClient(server.url, timeout_seconds=5).open()
    finally:
        await server.admin.replicaof("NO", "ONE")
    await eventually(lambda: redis_client.is_connected)


async def test_wrong_password_fails_the_opening(server: OwnServer) -> None:
    wrong = server.url.replace(server.endpoint.password, "wrong")
    with pytest.raises(MeterUnavailable, match=re.compile("cannot connect to Redis: .*password", re.IGNORECASE)):
        await RedisClient(wrong, timeout_seconds=5).open()


async def test_changed_password_is_retried_until_it_is_right(
    redis_client: RedisClient, proxy: FaultProxy, server: OwnServer
) -> None:
    await server.admin.config_set("requirepass", "rotated")
    proxy.cut()
    await eventually(lambda: not redis_client.is_connected)
    await asyncio.sleep(0.1)  # some attempts fail
    assert not redis_client.is_connected
    await server.admin.config_set("requirepass", server.endpoint.password)
    await eventually(lambda: redis_client.is_connected)


async def test_unreachable_server_fails_the_opening() -> None:
    with pytest.raises(MeterUnavailable, match="cannot connect to Redis"):
        await RedisClient("redis://127.0.0.1:1/0", timeout_seconds=5).open()


async def test_silent_server_fails_the_opening(
    proxy: FaultProxy, server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "CONNECT_TIMEOUT_SECONDS", 0.2)
    proxy.freeze()
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(MeterUnavailable, match=r"in time|[Tt]imeout"):
        await RedisClient(proxy.through(server.url), timeout_seconds=0.1).open()
    assert loop.time() - started < 1
    proxy.thaw()


async def test_closing_while_reconnecting_leaves_no_task(redis_client: RedisClient, proxy: FaultProxy) -> None:
    proxy.freeze()
    with short_redis_timeout(redis_client):
        with suppress(MeterUnavailable):
            await redis_client.call((b"PING",))
        await eventually(lambda: repr(redis_client) == "<RedisClient disconnected>")
    await asyncio.sleep(0.02)  # connecting to a server that is silent
    await redis_client.close()
    proxy.thaw()
    await eventually(lambda: proxy.connections == 0)
    assert repr(redis_client) == "<RedisClient closed>"


async def test_closing_fails_pending_calls(redis_client: RedisClient, proxy: FaultProxy) -> None:
    proxy.freeze()
    waiting = asyncio.create_task(redis_client.call((b"PING",)))
    await asyncio.sleep(0)
    assert repr(redis_client) == "<RedisClient 1 pending>"
    await redis_client.close()
    with pytest.raises(MeterUnavailable, match="closed"):
        await waiting
    with pytest.raises(MeterUnavailable):
        await redis_client.call((b"PING",))


@pytest.mark.parametrize(
    ("server", "complaint"),
    [
        ({"redis_version": "6.0.16"}, "Redis 6.0.16 is too old: Redis >= 6.2 is needed"),
        ({"redis_version": "7.2.4", "valkey_version": "7.0.1"}, "Valkey 7.0.1 is too old: Valkey >= 7.2 is needed"),
        ({"redis_version": ""}, "Redis of unknown version is too old"),
        ({}, "Redis of unknown version is too old"),
    ],
)
def test_server_that_is_too_old_is_refused_by_name(server: dict[str, str], complaint: str) -> None:
    with pytest.raises(UnsupportedServer, match=re.escape(complaint)):
        _check_version(server)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_server_that_evicts_is_refused_by_name_at_the_start(server: OwnServer, policy: str) -> None:
    admin = server.admin
    try:
        await admin.config_set("maxmemory-policy", policy)
        without_limit = RedisClient(server.url, timeout_seconds=5)
        await without_limit.open()
        await without_limit.close()
        await admin.config_set("maxmemory", "1gb")
        with pytest.raises(UnsupportedServer, match=f"maxmemory-policy {policy}.*set maxmemory-policy noeviction"):
            await RedisClient(server.url, timeout_seconds=5).open()
        await admin.config_set("maxmemory-policy", "noeviction")
        with_limit = RedisClient(server.url, timeout_seconds=5)
        await with_limit.open()
        await with_limit.close()
    finally:
        await admin.config_set("maxmemory", "0")
        await admin.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize(
    "server",
    [
        {"redis_version": "6.2.0"},
        {"redis_version": "7.0.15"},
        {"redis_version": "8.0-rc1"},
        {"redis_version": "7.2.4", "valkey_version": "9.1.2"},
    ],
)
def test_server_that_is_new_enough_is_accepted(server: dict[str, str]) -> None:
    _check_version(server)
