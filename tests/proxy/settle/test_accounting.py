"""Accounting: each admitted request ends in one settlement and one row, whatever fails."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from gateway.clock import now
from gateway.metrics import USAGE_MISSING
from gateway.proxy.forward import disconnects
from tests.proxy.data_plane import Account, DataPlane, RedisState
from tests.proxy.upstream import Exchange
from tests.support.polling import eventually


async def settled_row(data_plane: DataPlane, account: Account) -> Mapping[str, Any]:
    """The account's only row, once its only call has ended; the hold is gone and the balance is exact."""
    hot = await data_plane.settled_state(account)
    row = await data_plane.usage_row(account)
    assert hot == RedisState(100 - row["credits_charged"], 0, (1, 1, 1))
    assert await data_plane.stored_balance(account) == hot.balance
    return row


def outcome(row: Mapping[str, Any]) -> tuple[str, int | None, str | None, int]:
    return row["outcome"], row["status_code"], row["error_code"], row["credits_charged"]


async def test_usage_row_holds_caller_request_and_outcome(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(201, b"x" * 1000, gateway_tokens="77", gateway_cost_usd="0.001234")
    before = now()
    answer = await data_plane.post(
        account,
        "/v1/things/a%20b?secret=1",
        b"y" * 500,
        x_request_id="mine-1",
        x_language_code="pt-BR",
        x_category="shoes\tand\\n",
        x_batch_id="b-7",
    )
    assert answer.status_code == 201
    row = await settled_row(data_plane, account)
    expected = {
        "user_id": account.user_id,
        "api_key_id": account.key_id,
        "subscription_id": account.subscription_id,
        "plan_id": account.plan.id,
        "endpoint": "things",
        "method": "POST",
        "path": "/v1/things/a%20b",
        "usage_type": "api_call",
        "outcome": "succeeded",
        "status_code": 201,
        "error_code": None,
        "credits_charged": 1,
        "product_count": 1,
        "tokens_used": 77,
        "cost_usd": Decimal("0.001234"),
        "language_code": "pt-BR",
        "category": "shoes\tand\\n",
        "batch_id": "b-7",
        "request_bytes": 500,
        "response_bytes": 1000,
        "client_ip": "127.0.0.1",
        "client_request_id": "mine-1",
    }
    assert {name: row[name] for name in expected} == expected
    assert isinstance(row["request_id"], UUID)
    assert row["request_id"].version == 7
    assert before <= row["created_at"] <= now()
    assert 0 <= row["upstream_time_ms"] <= row["response_time_ms"] < 10_000


@pytest.mark.parametrize("status", [200, 204, 206, 299])
async def test_success_is_charged_the_price(data_plane: DataPlane, status: int) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(status, b"", content_length="" if status == 204 else "0")
    assert (await data_plane.get(account)).status_code == status
    assert outcome(await settled_row(data_plane, account)) == ("succeeded", status, None, 1)


@pytest.mark.parametrize("status", [300, 302, 307, 400, 404, 416, 429, 500, 503])
async def test_upstream_error_costs_nothing(data_plane: DataPlane, status: int) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(status)
    answer = await data_plane.get(account)
    assert (answer.status_code, answer.headers["x-credits-charged"]) == (status, "0")
    assert outcome(await settled_row(data_plane, account)) == ("upstream_error", status, None, 0)


async def test_route_configures_which_statuses_are_charged(data_plane: DataPlane) -> None:
    missing, moved = await data_plane.create_account(), await data_plane.create_account()
    data_plane.upstream.respond_with(404)
    await data_plane.get(missing, "/v1/errors-too")
    data_plane.upstream.respond_with(302)
    await data_plane.get(moved, "/v1/errors-too")
    assert outcome(await settled_row(data_plane, missing)) == ("succeeded", 404, None, 2)
    assert outcome(await settled_row(data_plane, moved)) == ("upstream_error", 302, None, 0)


async def test_reported_credits_are_charged_on_any_status(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(500, gateway_credits="3")
    answer = await data_plane.get(account)
    assert answer.headers["x-credits-charged"] == "3"
    assert outcome(await settled_row(data_plane, account)) == ("upstream_error", 500, None, 3)


async def test_unreachable_upstream_costs_nothing(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    assert (await data_plane.get(account, "/v1/nobody")).status_code == 502
    row = await settled_row(data_plane, account)
    assert outcome(row) == ("upstream_unreachable", 502, "upstream_unreachable", 0)


async def test_slow_upstream_costs_nothing(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.answer = _never
    assert (await data_plane.get(account, "/v1/hasty")).status_code == 504
    assert outcome(await settled_row(data_plane, account)) == ("upstream_timeout", 504, "upstream_timeout", 0)


async def test_response_that_is_not_http_costs_nothing(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with_bytes(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    assert (await data_plane.get(account)).status_code == 502
    assert outcome(await settled_row(data_plane, account)) == ("upstream_invalid", 502, "upstream_invalid", 0)


async def test_response_that_breaks_off_costs_nothing_and_is_cut(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with_bytes(
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\ngateway-credits: 9\r\n\r\n" + b"x" * 40
    )
    async with data_plane.connect() as client:
        await client.request(account, "GET /v1/things/1")
        status, _ = await client.read_head()
        assert status == 200
        assert await client.read_rest() == b"x" * 40
    row = await settled_row(data_plane, account)
    assert outcome(row) == ("upstream_invalid", 200, "upstream_invalid", 0)
    assert row["response_bytes"] == 40


async def test_chunked_response_that_breaks_off_has_no_last_chunk(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with_bytes(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
    async with data_plane.connect() as client:
        await client.request(account, "GET /v1/things/1")
        assert (await client.read_head())[0] == 200
        assert await client.read_rest() == b"5\r\nhello\r\n"
    assert (await settled_row(data_plane, account))["outcome"] == "upstream_invalid"


async def test_response_body_that_stalls_is_a_timeout(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()

    async def answer(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
        await _never(exchange)

    data_plane.upstream.answer = answer
    async with data_plane.connect() as client:
        await client.request(account, "GET /v1/hasty")
        assert (await client.read_head())[0] == 200
        assert await client.read_rest() == b"some"
    assert outcome(await settled_row(data_plane, account)) == ("upstream_timeout", 200, "upstream_timeout", 0)


class TestClientLeaves:
    async def test_disconnect_during_the_upload_costs_nothing(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        async with data_plane.connect() as client:
            await client.request(account, "POST /v1/things/1", "content-length: 1000000", body=b"")
            await client.send(b"x" * 40_000)
            await eventually(lambda: data_plane.upstream.exchanges)
            client.disconnect()
        row = await settled_row(data_plane, account)
        assert outcome(row) == ("client_aborted", None, None, 0)
        assert 0 < row["request_bytes"] <= 40_000

    async def test_disconnect_after_a_chunked_upload_is_charged_the_price(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        arrived, gone = asyncio.Event(), asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            await exchange.read()
            arrived.set()
            await gone.wait()
            await exchange.reply(200, b"done")

        data_plane.upstream.answer = answer
        async with data_plane.connect() as client:
            await client.request(account, "POST /v1/things/1", "content-length: 200000", body=b"")
            for _ in range(2):
                await client.send(b"x" * 100_000)
            await arrived.wait()
            client.disconnect()
        await _disconnect_seen(data_plane)
        gone.set()
        row = await settled_row(data_plane, account)
        assert outcome(row) == ("client_aborted", 200, None, 1)
        assert row["request_bytes"] == 200_000

    async def test_disconnect_in_a_slow_error_response_costs_nothing(
        self, data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(disconnects, "DRAIN_SECONDS", 0.05)
        account = await data_plane.create_account()

        async def answer(exchange: Exchange) -> None:
            await exchange.write(b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\n" + _chunk(b"so"))
            await _never(exchange)

        data_plane.upstream.answer = answer
        async with data_plane.connect() as client:
            await client.request(account, "GET /v1/dear")
            await client.read_until(b"so")
            client.disconnect()
        assert outcome(await settled_row(data_plane, account)) == ("client_aborted", 500, None, 0)

    async def test_disconnect_before_the_head_is_drained_and_charged(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        arrived, gone = asyncio.Event(), asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            arrived.set()
            await gone.wait()
            await exchange.reply(200, b"done", gateway_credits="4")

        data_plane.upstream.answer = answer
        async with data_plane.connect() as client:
            await client.request(account, "GET /v1/things/1")
            await arrived.wait()
            client.disconnect()
        await _disconnect_seen(data_plane)
        gone.set()
        row = await settled_row(data_plane, account)
        assert outcome(row) == ("client_aborted", 200, None, 4)
        assert data_plane.handler._drains.active == 0

    async def test_disconnect_before_an_error_response_costs_nothing(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        arrived, gone = asyncio.Event(), asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            arrived.set()
            await gone.wait()
            await exchange.reply(500)

        data_plane.upstream.answer = answer
        async with data_plane.connect() as client:
            await client.request(account, "GET /v1/things/1")
            await arrived.wait()
            client.disconnect()
        await _disconnect_seen(data_plane)
        gone.set()
        assert outcome(await settled_row(data_plane, account)) == ("client_aborted", 500, None, 0)

    async def test_disconnect_during_the_response_is_drained_to_learn_its_cost(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        gone = asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            await exchange.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            await exchange.write(_chunk(b'data: {"delta": "a"}\n\n'))
            await gone.wait()
            await exchange.write(_chunk(b'data: {"usage": {"total_tokens": 8500}}\n\n') + b"0\r\n\r\n")

        data_plane.upstream.answer = answer
        async with data_plane.connect() as client:
            await client.request(account, "POST /v1/chat", body=b"{}")
            await client.read_until(b'"a"}')
            client.disconnect()
        await _disconnect_seen(data_plane)
        gone.set()
        row = await settled_row(data_plane, account)
        assert outcome(row) == ("client_aborted", 200, None, 9)
        assert row["tokens_used"] == 8500

    async def test_disconnect_and_slow_upstream_is_charged_the_hold(
        self, data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(disconnects, "DRAIN_SECONDS", 0.05)
        account = await data_plane.create_account()
        data_plane.upstream.answer = _never
        async with data_plane.connect() as client:
            await client.request(account, "POST /v1/chat", body=b"{}")
            await eventually(lambda: data_plane.upstream.exchanges)
            client.disconnect()
        assert outcome(await settled_row(data_plane, account)) == ("client_aborted", None, None, 5)
        assert data_plane.handler._drains.active == 0

    async def test_disconnect_beyond_the_drain_limit_is_cancelled_at_once(
        self, data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(disconnects, "MAX_DRAINS", 0)
        account = await data_plane.create_account()
        data_plane.upstream.answer = _never
        async with data_plane.connect() as client:
            await client.request(account, "GET /v1/dear")
            await eventually(lambda: data_plane.upstream.exchanges)
            client.disconnect()
        assert outcome(await settled_row(data_plane, account)) == ("client_aborted", None, None, 7)

    async def test_disconnect_and_broken_response_costs_nothing(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        arrived, gone = asyncio.Event(), asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            arrived.set()
            await gone.wait()
            exchange.writer.close()

        data_plane.upstream.answer = answer
        async with data_plane.connect() as client:
            await client.request(account, "GET /v1/things/1")
            await arrived.wait()
            client.disconnect()
        await _disconnect_seen(data_plane)
        gone.set()
        assert (await settled_row(data_plane, account))["credits_charged"] == 0


async def test_upload_is_recorded_in_history(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    file = bytes(range(256)) * 300
    files = [
        ("upload", ("../dir/data.csv", file, "text/csv")),
        ("other", ("b.txt", b"b", "text/plain")),
    ]
    answer = await data_plane.http.post("/v1/analyze", data={"note": "first"}, files=files, headers=account.auth)
    assert answer.status_code == 200
    row = await settled_row(data_plane, account)
    assert row["file_size_bytes"] == len(file)
    (history,) = await data_plane.analysis_rows(account)
    expected = {
        "request_id": row["request_id"],
        "user_id": account.user_id,
        "api_key_id": account.key_id,
        "analysis_type": "analyze",
        "file_name": "data.csv",
        "file_size_bytes": len(file),
        "file_sha256": hashlib.sha256(file).hexdigest(),
        "content_type": "text/csv",
        "status": "succeeded",
        "credits_charged": 1,
    }
    assert {name: history[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({}, None),
        ({"content-disposition": 'attachment; filename="a b.csv"'}, "a b.csv"),
        ({"x-file-name": "C:\\temp\\c.csv"}, "c.csv"),
    ],
)
async def test_body_that_is_no_form_is_the_file(
    data_plane: DataPlane, headers: dict[str, str], name: str | None
) -> None:
    account = await data_plane.create_account()
    body = b"a,b\n1,2\n"
    headers = headers | account.auth | {"content-type": "text/csv; charset=utf-8"}
    assert (await data_plane.http.post("/v1/analyze", content=body, headers=headers)).status_code == 200
    (history,) = await data_plane.analysis_rows(account)
    assert history["file_name"] == name
    assert history["file_size_bytes"] == len(body)
    assert history["file_sha256"] == hashlib.sha256(body).hexdigest()
    assert history["content_type"] == "text/csv; charset=utf-8"


async def test_failed_analysis_is_recorded_in_history(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(500)
    await data_plane.post(account, "/v1/analyze", b"abc")
    (history,) = await data_plane.analysis_rows(account)
    assert (history["status"], history["credits_charged"]) == ("upstream_error", 0)


async def test_priced_body_fills_columns_that_headers_leave_out(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    body = {"products": [1, 2, 3], "language_code": "de", "category": "hats", "batch_id": 7}
    await data_plane.post(account, "/v1/generate", json.dumps(body).encode(), x_category="shoes")
    row = await settled_row(data_plane, account)
    assert (row["product_count"], row["credits_charged"]) == (3, 3)
    assert (row["language_code"], row["category"], row["batch_id"]) == ("de", "shoes", None)
    assert row["request_bytes"] == len(json.dumps(body))


async def test_texts_of_a_priced_body_that_no_column_holds_are_made_harmless(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    body = rb'{"products":[1],"language_code":"\ud83d","category":"a\u0000b\t\\N","batch_id":"\udc00\ud83dc"}'
    assert (await data_plane.post(account, "/v1/generate", body)).status_code == 200
    row = await settled_row(data_plane, account)
    assert (row["language_code"], row["category"], row["batch_id"]) == ("?", "ab\t\\N", "??c")


async def test_other_usage_types_leave_no_history(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    await data_plane.get(account)
    assert await data_plane.analysis_rows(account) == []


async def test_disconnect_after_an_error_event_is_an_error_of_the_upstream(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    gone = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        await exchange.write(_chunk(b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n'))
        await gone.wait()
        await exchange.write(b"0\r\n\r\n")

    data_plane.upstream.answer = answer
    async with data_plane.connect() as client:
        await client.request(account, "POST /v1/messages", body=b'{"model":"c","stream":true}')
        await client.read_until(b"overloaded_error")
        client.disconnect()
    await _disconnect_seen(data_plane)
    gone.set()
    assert outcome(await settled_row(data_plane, account)) == ("upstream_error", 200, None, 0)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("cut", [0, 8, 12, 13])
async def test_disconnect_after_the_last_event_is_a_success_however_it_is_cut(
    data_plane: DataPlane, cut: int, end: bytes
) -> None:
    account = await data_plane.create_account()
    seen = asyncio.Queue[None]()
    usage, last = b'data: {"usage": {"total_tokens": 1500}}' + 2 * end, b"data: [DONE]" + 2 * end
    parts = usage + last[:cut], last[cut:]

    async def answer(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        for part in parts:
            await exchange.write(part)
            await seen.get()
        exchange.writer.close()

    data_plane.upstream.answer = answer
    async with data_plane.connect() as client:
        await client.request(account, "POST /v1/chat", body=b"{}")
        await client.read_until(parts[0] + b"\r\n")
        seen.put_nowait(None)
        await client.read_until(parts[1] + b"\r\n")
        client.disconnect()
    await _disconnect_seen(data_plane)
    seen.put_nowait(None)
    assert outcome(await settled_row(data_plane, account)) == ("succeeded", 200, None, 2)


async def test_disconnect_in_an_error_response_misses_no_usage(
    data_plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disconnects, "DRAIN_SECONDS", 0.05)
    account = await data_plane.create_account()
    before = USAGE_MISSING.labels("messages", "left")._value.get()

    async def answer(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\n" + _chunk(b"so"))
        await _never(exchange)

    data_plane.upstream.answer = answer
    async with data_plane.connect() as client:
        await client.request(account, "POST /v1/messages", body=b'{"model":"c"}')
        await client.read_until(b"so")
        client.disconnect()
    assert outcome(await settled_row(data_plane, account)) == ("client_aborted", 500, None, 0)
    assert USAGE_MISSING.labels("messages", "left")._value.get() == before


async def _never(exchange: Exchange) -> None:
    await exchange.read()
    await asyncio.Event().wait()


async def _disconnect_seen(data_plane: DataPlane) -> None:
    """Returns when the gateway has seen the disconnect of a client."""
    await eventually(lambda: data_plane.handler._drains.active)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_tokens_that_an_upstream_reports_count_no_items(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(200, b"{}", content_type="application/json", gateway_tokens="1500")
    await data_plane.post(account, "/v1/results")
    row = await data_plane.usage_row(account)
    assert (row["credits_charged"], row["usage_source"], row["tokens_used"]) == (5, "missing", 1500)


async def test_file_name_that_cannot_be_decoded_is_recorded_as_it_came(data_plane: DataPlane) -> None:
    account, name = await data_plane.create_account(), "=?utf-8?B?bmHDr3ZlL?="
    answer = await data_plane.post(account, "/v1/analyze", b"x", content_disposition=f'attachment; filename="{name}"')
    assert answer.status_code == 200
    assert (await data_plane.redis_state(account)).in_flight == 0
    assert [row["file_name"] for row in await data_plane.analysis_rows(account)] == [name]
