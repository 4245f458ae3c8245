"""A client that does not take what the upstream sends: the call is its doing, and it pays."""

from __future__ import annotations

import asyncio

from tests.proxy.conftest import Configure, Serve
from tests.proxy.upstream import Exchange
from tests.support.polling import eventually

PIECE = b"x" * 2**20


async def test_client_that_takes_nothing_pays_for_the_call(serve: Serve, configure: Configure) -> None:
    served = await serve(configure(upstreams__plain__total_timeout="500ms", upstreams__plain__idle_timeout="10s"))
    account = await served.create_account()

    async def answer(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (64 * len(PIECE)))
        for _ in range(64):
            await exchange.write(PIECE)

    served.upstream.answer = answer
    async with served.connect() as wire:
        await wire.request(account, "GET /v1/plain")
        await eventually(lambda: served.upstream.exchanges)
        await served.settled_state(account)
        row = await served.usage_row(account)
    assert (row["outcome"], row["status_code"], row["error_code"], row["credits_charged"]) == (
        "client_aborted", 200, None, 1
    )  # fmt: skip
    assert row["response_bytes"] < 64 * len(PIECE)


async def test_upstream_that_sends_nothing_more_is_to_blame(serve: Serve, configure: Configure) -> None:
    served = await serve(configure(upstreams__plain__total_timeout="500ms", upstreams__plain__idle_timeout="10s"))
    account = await served.create_account()

    async def answer(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx")
        await asyncio.Event().wait()

    served.upstream.answer = answer
    async with served.connect() as wire:
        await wire.request(account, "GET /v1/plain")
        await wire.read_rest()
    row = await served.usage_row(account)
    assert (row["outcome"], row["credits_charged"]) == ("upstream_timeout", 0)
