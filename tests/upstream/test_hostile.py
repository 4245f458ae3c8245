"""Every hostile upstream over a real socket: what the caller gets, and whether the connection is ever used again."""

from __future__ import annotations

import pytest

from gateway.upstream.errors import UpstreamError
from gateway.upstream.request_head import Request
from tests.upstream.hostile import CASES, TIMEOUT, Case
from tests.upstream.scripted import Reply, eventually, fetch, scripted, upstream_to


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_hostile_upstream_gets_no_garbage_to_the_client(case: Case) -> None:
    waits = 0.05 if case.expected is TIMEOUT else 2.0
    async with (
        scripted(Reply(case.data, case.then)) as server,
        upstream_to(server.url, first_byte_timeout_seconds=waits, idle_timeout_seconds=waits) as upstream,
    ):
        request = Request(case.method, b"/")

        if isinstance(case.expected, tuple):
            assert case.expected == await fetch(upstream, request)
        else:
            with pytest.raises(UpstreamError) as raised:
                await fetch(upstream, request)
            assert case.expected is raised.value.outcome

        left = "[0 leased, 1 idle, 0 queued, 1 open]" if case.reused else "[0 leased, 0 idle, 0 queued, 0 open]"
        await eventually(lambda: left in repr(upstream))


def test_hostile_upstreams_are_a_hundred() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert sum(not case.reused for case in CASES) >= 100
