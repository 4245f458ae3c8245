"""413: the body is larger than the route or the plan allows."""

from __future__ import annotations

import asyncio
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import pytest

from tests.proxy.data_plane import Account, DataPlane, RedisState
from tests.proxy.problems import assert_problem
from tests.proxy.upstream import Exchange
from tests.support.polling import eventually


async def test_declared_oversized_body_is_refused_before_it_is_read(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.assert_unchanged(account), data_plane.connect() as client:
        await client.request(account, "POST /v1/analyze", "content-length: 100001", "expect: 100-continue")
        status, fields = await client.read_head()
        assert status == 413
        body = await client.reader.readexactly(int(fields["content-length"]))
        assert b'"payload_too_large"' in body
        assert b'"max_bytes": 100000' in body


async def test_lower_limit_of_the_plan_applies(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(max_file_size_bytes=10)
    async with data_plane.assert_unchanged(account):
        for path in ("/v1/things/1", "/v1/analyze"):
            assert_problem(await data_plane.post(account, path, b"x" * 11), 413, "payload_too_large", max_bytes=10)
    assert (await data_plane.post(account, content=b"x" * 10)).status_code == 200
    generous = await data_plane.create_account(max_file_size_bytes=10_000_000)
    answer = await data_plane.post(generous, "/v1/analyze", b"x" * 100_001)
    assert_problem(answer, 413, "payload_too_large", max_bytes=100_000)


async def test_priced_body_of_unknown_length_is_refused_before_admission(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.assert_unchanged(account):
        answer = await data_plane.http.post("/v1/generate", content=_chunks(b"x" * 1001, 10), headers=account.auth)
    assert_problem(answer, 413, "payload_too_large", max_bytes=10_000)


async def test_small_oversized_chunked_body_is_not_sent_and_costs_nothing(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(max_file_size_bytes=10)
    async with data_plane.connect() as client:
        await client.request(account, "POST /v1/things/1", "transfer-encoding: chunked")
        await client.send(b"b\r\n12345678901\r\n0\r\n\r\n")
        assert (await client.read_head())[0] == 413
    assert data_plane.upstream.exchanges == []
    await _ended_without_charge(data_plane, account)


async def test_streamed_body_is_cut_off_where_it_becomes_too_large(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.connect() as client:
        await client.request(account, "POST /v1/analyze", "transfer-encoding: chunked")
        await client.send(b"c350\r\n" + b"x" * 50_000 + b"\r\n")
        await eventually(lambda: data_plane.upstream.exchanges)
        await client.send(b"c351\r\n" + b"x" * 50_001 + b"\r\n")
        status, fields = await client.read_head()
        assert (status, fields["x-credits-charged"], fields["x-credits-remaining"]) == (413, "0", "100")
    await _ended_without_charge(data_plane, account)
    assert not data_plane.upstream.last.is_complete


async def test_last_chunk_beyond_the_limit_is_refused(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(max_file_size_bytes=60_000)
    async with data_plane.connect() as client:
        await client.request(account, "POST /v1/things/1", "transfer-encoding: chunked")
        await client.send(b"c350\r\n" + b"x" * 50_000 + b"\r\n")
        await eventually(lambda: data_plane.upstream.exchanges)
        await client.send(b"c350\r\n" + b"x" * 50_000 + b"\r\n0\r\n\r\n")
        assert (await client.read_head())[0] == 413
    await _ended_without_charge(data_plane, account)
    assert not data_plane.upstream.last.is_complete


async def test_started_response_is_cut_off_and_charged(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(max_file_size_bytes=60_000)

    async def answer(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
        await asyncio.Event().wait()

    data_plane.upstream.answer = answer
    async with data_plane.connect() as client:
        await client.request(account, "POST /v1/things/1", "transfer-encoding: chunked")
        await client.send(b"c350\r\n" + b"x" * 50_000 + b"\r\n")
        assert (await client.read_head())[0] == 200
        await client.send(b"c350\r\n" + b"x" * 50_000 + b"\r\n")
        assert await client.read_rest() == b"some"
    row = await data_plane.usage_row(account)
    assert (row["outcome"], row["error_code"], row["credits_charged"]) == ("client_aborted", "payload_too_large", 1)
    assert await data_plane.redis_state(account) == RedisState(99, 0, (1, 1, 1))


@pytest.mark.parametrize("size", [20 * 2**20 + 1, 500 * 2**20])
async def test_gzip_bomb_is_refused_in_little_memory(data_plane: DataPlane, size: int) -> None:
    account = await data_plane.create_account(credits=10_000)
    await data_plane.get(account)
    bomb, headers = _gzip_of_spaces(size), account.auth | {"content-encoding": "gzip"}
    async with data_plane.assert_unchanged(account):
        tracemalloc.start()
        try:
            answer = await data_plane.http.post("/v1/chat/completions", content=bomb, headers=headers)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert_problem(answer, 413, "payload_too_large", max_bytes=20 * 2**20)
    assert peak < 2**20 + len(bomb)


def _gzip_of_spaces(size: int) -> bytes:
    deflate = zlib.compressobj(9, wbits=31)
    piece = b" " * 2**20
    pieces = [deflate.compress(piece[: size - start]) for start in range(0, size, len(piece))]
    return b"".join([*pieces, deflate.flush()])


async def _ended_without_charge(data_plane: DataPlane, account: Account) -> None:
    row = await data_plane.usage_row(account)
    assert (row["outcome"], row["error_code"], row["credits_charged"]) == ("client_aborted", "payload_too_large", 0)
    assert await data_plane.redis_state(account) == RedisState(100, 0, (1, 1, 1))
    assert await data_plane.holds(account) == []


async def _chunks(piece: bytes, times: int) -> AsyncIterator[bytes]:
    for _ in range(times):
        yield piece


async def test_refused_upload_costs_nothing_where_such_answers_of_the_upstream_are_charged(
    data_plane: DataPlane,
) -> None:
    account = await data_plane.create_account(max_file_size_bytes=10)
    async with data_plane.connect() as client:
        await client.request(account, "POST /v1/refusals-too", "transfer-encoding: chunked")
        await client.send(b"b\r\n12345678901\r\n0\r\n\r\n")
        assert (await client.read_head())[0] == 413
    await _ended_without_charge(data_plane, account)
