"""Every API in every form: the client gets the provider's bytes, and the books what the provider says was used."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.proxy.forward import disconnects
from tests.guarantees.ai.table import ROWS, Row, names
from tests.proxy.data_plane import Account, DataPlane
from tests.proxy.metering.wire import pieces
from tests.proxy.upstream import Exchange
from tests.support.polling import eventually

CREDITS = 100_000_000
COLUMNS = ("input", "cached_input", "cache_write", "output", "reasoning")


def test_the_table_is_large_and_names_each_row_once() -> None:
    assert len(ROWS) >= 120
    assert len(set(names(ROWS))) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
async def test_call_passes_unchanged_and_is_charged_what_it_used(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch, row: Row
) -> None:
    account = await data_plane.create_account(credits=CREDITS)
    if row.rest is None:
        monkeypatch.setattr(disconnects, "DRAIN_SECONDS", 0.05)
    gone = asyncio.Event()
    data_plane.upstream.answer = lambda exchange: answer(exchange, row, gone)
    if row.leaves:
        received = await _call_and_leave(data_plane, account, row, gone)
    else:
        received = await _call(data_plane, account, row)
    await data_plane.settled_state(account)
    usage_row = await data_plane.usage_row(account)

    assert received == row.passed
    assert usage_row["credits_charged"] == row.charge
    assert usage_row["outcome"] == row.outcome
    assert source_of(usage_row) == row.source
    assert counts_of(usage_row) == row.counts


def source_of(usage_row: Mapping[str, Any]) -> str:
    metadata = usage_row["metadata"] or {}
    return str(usage_row.get("usage_source") or metadata.get("usage_source", "none"))


def counts_of(usage_row: Mapping[str, Any]) -> dict[str, int]:
    """Of the classes by their columns, and of the others by the record's metadata."""
    counted = {name: usage_row.get(f"{name}_tokens") for name in COLUMNS}
    known = {name: count for name, count in counted.items() if count is not None}
    return dict((usage_row["metadata"] or {}).get("usage", {})) | known


async def answer(exchange: Exchange, row: Row, gone: asyncio.Event) -> None:
    await exchange.read()
    encoding = b"content-encoding: %b\r\n" % row.encoding if row.encoding else b""
    head = b"HTTP/1.1 %d Said\r\ncontent-type: %b\r\n%btransfer-encoding: chunked\r\n\r\n"
    await exchange.write(head % (row.status, row.content_type, encoding))
    for piece in pieces(row.sent, row.piece_bytes or 1 << 20):
        await exchange.write(_chunk(piece))
    if row.breaks:
        exchange.writer.transport.abort()
        return
    if row.leaves:
        await gone.wait()
        if row.rest is None:
            await exchange.reader.read()
            return
        await exchange.write(_chunk(row.rest))
    await exchange.write(b"0\r\n\r\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


async def _call(data_plane: DataPlane, account: Account, row: Row) -> bytes:
    headers = {"x-api-key": account.key, "content-type": "application/json", "accept-encoding": "gzip, br, zstd"}
    received = bytearray()
    with_body = data_plane.http.stream("POST", row.path, content=row.request, headers=headers | dict(row.fields))
    async with with_body as response:
        try:
            async for piece in response.aiter_raw():
                received += piece
        except Exception:
            assert row.breaks
    return bytes(received)


async def _call_and_leave(data_plane: DataPlane, account: Account, row: Row, gone: asyncio.Event) -> bytes:
    """Reads what is sent until now, and leaves without waiting for an end."""
    received = bytearray()
    async with data_plane.connect() as client:
        fields = ["content-type: application/json", *(f"{name}: {value}" for name, value in row.fields.items())]
        await client.request(account, f"POST {row.path}", *fields, body=row.request)
        await client.read_head()
        while len(received) < len(row.passed):
            size = int(await client.read_until(b"\r\n"), 16)
            received += (await client.reader.readexactly(size + 2))[:size]
        client.disconnect()
    drains = data_plane.handler._drains
    await eventually(lambda: drains.active > 0 or gone.is_set() or _has_ended(data_plane))
    gone.set()
    return bytes(received)


def _has_ended(data_plane: DataPlane) -> bool:
    return data_plane.upstream.last.writer.is_closing() or data_plane.upstream.last.reader.at_eof()
