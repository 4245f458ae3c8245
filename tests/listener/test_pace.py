"""What no client may make the listener do: wait for a trickle for ever, or read chunks without a pause."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from math import inf

import pytest

from gateway.listener.connection_gate import ConnectionGate
from gateway.listener.limits import BodyPace, ListenerLimits
from tests.listener.listening import PROBE, Recorder, connected, listening
from tests.proxy.requests import post
from tests.support.polling import eventually

CHUNKED = b"Transfer-Encoding: chunked"


def test_trickle_runs_out_of_time_and_a_steady_body_does_not() -> None:
    trickle, steady = (BodyPace(rate=100, grace_seconds=30) for _ in range(2))
    now = 0.0
    for _ in range(3):
        assert trickle.wait(now) > 0
        assert steady.wait(now) > 0
        now += 10
        trickle.received(1, now)
        steady.received(1000, now)
    assert trickle.wait(now) < 0.1
    assert steady.wait(now) == 30


def test_pace_counts_no_time_in_which_the_gateway_did_not_wait() -> None:
    pace = BodyPace(rate=100, grace_seconds=30)
    pace.wait(0)
    pace.received(0, 10)
    assert pace.wait(1000) == 20
    assert pace.wait(1005) == 15


def test_pace_is_not_saved_up() -> None:
    pace = BodyPace(rate=100, grace_seconds=30)
    pace.received(10**9, 0)
    assert pace.wait(0) == 30


async def test_body_below_the_rate_is_cut_although_it_never_stops() -> None:
    limits = ListenerLimits(body_idle_timeout_seconds=0.3, body_min_rate=1000)
    async with listening(Recorder(), limits) as listener, connected(listener) as client:
        await client.send(post(b"Content-Length: 100000"))
        dripping = asyncio.create_task(_drip(client.writer))
        answer = await client.final_answer()
        dripping.cancel()
        assert (answer.status, answer.code) == (408, "request_timeout")


async def _drip(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(b"x")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("size", [1, 15])
async def test_body_of_tiny_chunks_is_refused(size: int) -> None:
    async with listening(Recorder()) as listener, connected(listener) as client:
        client.writer.write(post(CHUNKED, body=(b"%x\r\n%b\r\n" % (size, b"x" * size)) * 400_000))
        answer = await client.final_answer()
        assert (answer.status, answer.code) == (400, "bad_request")


@pytest.mark.parametrize(("size", "count"), [(1, 10_000), (16, 50_000), (1024, 2_000)])
async def test_body_of_chunks_is_read_whole_over_many_turns(size: int, count: int) -> None:
    app = Recorder()
    body = (b"%x\r\n%b\r\n" % (size, b"x" * size)) * count + b"0\r\n\r\n"
    async with listening(app) as listener, connected(listener) as client:
        client.writer.write(post(CHUNKED, body=body) + PROBE)
        assert [each.status for each in await client.answers()] == [200, 200]
        assert [len(each.body) for each in app.seen] == [size * count]


async def test_other_clients_have_their_turn_between_the_chunks_of_one() -> None:
    async with listening(Recorder()) as listener, connected(listener) as attacker, connected(listener) as victim:
        (reading,) = [
            each for each in listener.connections() if each.peer == attacker.writer.get_extra_info("sockname")
        ]
        attacker.writer.write(post(CHUNKED))
        await eventually(lambda: reading._body is not None)
        attacker.writer.write(b"1\r\nx\r\n" * 12_000)
        for _ in range(100_000):  # turns of the loop
            if reading._backlog:
                break
            await asyncio.sleep(0)
        assert reading._deadline.at == inf, "the client is to wait for nothing that it has sent"
        await victim.send(PROBE)
        assert [each.status for each in await victim.answers()] == [200]
        assert reading._backlog, "the victim was answered before the chunks were read"


class Idle:
    """A connection as the gate sees it."""

    def __init__(self, since: float | None) -> None:
        self.idle_since = since
        self.is_closed = False

    def shutdown(self) -> None:
        self.is_closed = True


def test_gate_closes_the_longest_idle_and_never_one_at_work() -> None:
    gate = ConnectionGate(ListenerLimits(max_connections=2))
    busy, old, young = Idle(None), Idle(1.0), Idle(2.0)
    connections = {busy, old, young}
    assert gate.enter("192.0.2.1", connections).error is None
    assert (busy.is_closed, old.is_closed, young.is_closed) == (False, True, False)
    assert connections == {busy, young}
    assert gate.enter("192.0.2.1", {Idle(None), Idle(None), Idle(None)}).error is not None


def test_gate_counts_ipv6_by_subscriber_and_trusted_proxies_not() -> None:
    gate = ConnectionGate(ListenerLimits(max_connections_per_address=1), [ip_network("10.0.0.0/8")])
    assert gate.enter("2001:db8::1", set()).error is None
    assert gate.enter("2001:db8::ffff%eth0", set()).error is not None
    assert gate.enter("2001:db8:0:1::1", set()).error is None
    assert gate.enter("::ffff:192.0.2.1", set()).error is None
    first = gate.enter("192.0.2.1", set())
    assert first.error is not None
    for _ in range(100):
        assert gate.enter("10.0.0.1", set()).error is None
    gate.leave(first.address)
    gate.leave(first.address)
    assert gate.enter("192.0.2.1", set()).error is None


def test_gate_closes_a_flood_of_one_address_without_a_response() -> None:
    gate = ConnectionGate(ListenerLimits(max_connections_per_address=1))
    assert [gate.enter("192.0.2.1", set()).is_cut for _ in range(30)] == [False] * 17 + [True] * 13
