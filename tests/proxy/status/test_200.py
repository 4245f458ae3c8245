"""200 and other statuses of the upstream: what the upstream gets, and what the client gets."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from uuid import UUID

import pytest

from gateway.proxy.forward.forwarding import STREAMED_FROM_BYTES
from tests.proxy.data_plane import Account, DataPlane
from tests.proxy.upstream import Exchange


class TestFieldsOfTheAnswer:
    async def test_limit_and_credit_fields_are_exact(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account(
            requests_per_minute=50, requests_per_hour=2000, max_api_calls_per_day=9000
        )
        answer = await data_plane.get(account)
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"] == '"minute";q=50;w=60, "hour";q=2000;w=3600, "day";q=9000;w=86400'
        pattern = r'"minute";r=49;t=(\d+), "hour";r=1999;t=(\d+), "day";r=8999;t=(\d+)'
        found = re.fullmatch(pattern, answer.headers["ratelimit"])
        assert found
        for seconds, window in zip(found.groups(), (60, 3600, 86400), strict=True):
            assert window * 0.9 < int(seconds) <= (60 if window == 60 else window * 61 / 60 + 1)
        assert answer.headers["x-credits-remaining"] == "99"
        assert answer.headers["x-credits-charged"] == "1"

    async def test_plan_without_limits_has_no_limit_fields(self, data_plane: DataPlane) -> None:
        answer = await data_plane.get(await data_plane.create_account())
        assert not {"ratelimit", "ratelimit-policy"} & answer.headers.keys()
        assert answer.headers["x-credits-remaining"] == "99"

    @pytest.mark.parametrize("sent", ["a", "A-Z_a.z-09", "x" * 128])
    async def test_request_id_is_echoed(self, data_plane: DataPlane, sent: str) -> None:
        answer = await data_plane.get(await data_plane.create_account(), x_request_id=sent)
        assert answer.headers["x-request-id"] == sent
        assert data_plane.upstream.last["x-request-id"] == sent

    @pytest.mark.parametrize("sent", [None, "x" * 129, "a b", "a/b", "a;b", "", "a,b"])
    async def test_invalid_request_id_is_replaced(self, data_plane: DataPlane, sent: str | None) -> None:
        account = await data_plane.create_account()
        headers = account.auth | ({} if sent is None else {"x-request-id": sent})
        answer = await data_plane.http.get("/v1/things/1", headers=headers)
        ours = UUID(answer.headers["x-request-id"])
        assert ours.version == 7
        assert data_plane.upstream.last["x-request-id"] == str(ours)
        row = await data_plane.usage_row(account)
        assert (row["request_id"], row["client_request_id"]) == (ours, None)

    async def test_accounting_id_is_the_gateways_though_the_client_repeats_its_own(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        for _ in range(2):
            await data_plane.get(account, x_request_id="again")
        rows = await data_plane.usage_rows(account)
        assert len({row["request_id"] for row in rows}) == 2

    async def test_gateway_fields_are_dropped_from_the_upstreams_response(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        data_plane.upstream.respond_with(
            ratelimit='"theirs";r=1;t=1',
            ratelimit_policy='"theirs";q=1;w=1',
            ratelimit_remaining="1",
            x_credits_remaining="1000000",
            x_credits_charged="0",
            x_request_id="theirs",
            gateway_credits="2",
            gateway_tokens="3",
            gateway_cost_usd="0.5",
            x_of_its_own="kept",
        )
        headers = (await data_plane.get(account, x_request_id="mine")).headers
        assert (headers["x-credits-remaining"], headers["x-credits-charged"]) == ("98", "2")
        assert headers.get_list("x-request-id") == ["mine"]
        assert headers["x-of-its-own"] == "kept"
        assert not [name for name in headers if name.startswith(("gateway-", "ratelimit"))]

    async def test_hop_by_hop_fields_of_the_upstream_are_not_forwarded(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        data_plane.upstream.respond_with(
            connection="keep-alive, x-private",
            x_private="secret",
            keep_alive="timeout=99",
            proxy_authenticate="Basic",
            upgrade="h2c",
            trailer="x-sum",
            x_public="seen",
        )
        headers = (await data_plane.get(account)).headers
        assert headers["x-public"] == "seen"
        assert not {"x-private", "keep-alive", "proxy-authenticate", "upgrade", "trailer"} & headers.keys()

    async def test_repeated_response_fields_stay_apart_and_in_order(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        data_plane.upstream.respond_with_bytes(
            b"HTTP/1.1 200 OK\r\nset-cookie: a=1, b\r\nset-cookie: c=2\r\ncontent-length: 2\r\n\r\nok",
        )
        assert (await data_plane.get(account, "/v1/plain")).headers.get_list("set-cookie") == ["a=1, b", "c=2"]


class TestRequestTowardsTheUpstream:
    async def test_method_path_query_and_body_are_unchanged(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        target = "/v1/things/a%20b/%C3%A9+(x):@!$&'*,=~?q=%2F%2e&&x=[]|y;z"
        async with data_plane.connect() as client:
            await client.request(account, f"PATCH {target}", body=b"\x00\xff\r\n" * 100)
            assert (await client.read_head())[0] == 200
        seen = data_plane.upstream.last
        assert (seen.method, seen.target, bytes(seen.body)) == ("PATCH", target, b"\x00\xff\r\n" * 100)

    async def test_api_key_is_removed_however_it_was_sent(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        for headers in (
            {"authorization": f"Bearer {account.key}"},
            {"x-api-key": account.key},
            {"authorization": f"bearer {account.key}", "x-api-key": account.key},
        ):
            for path in ("/v1/things/1", "/v1/plain"):
                assert (await data_plane.http.get(path, headers=headers)).status_code == 200
                assert not [value for _, value in data_plane.upstream.last.fields if account.key in value]

    async def test_configured_fields_replace_the_clients(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        await data_plane.get(account, authorization="Basic dTpw")
        assert data_plane.upstream.last["authorization"] == "Bearer of-the-upstream"
        await data_plane.get(account, "/v1/open/1", authorization="Basic dTpw")
        assert data_plane.upstream.last["authorization"] == "Basic dTpw"

    async def test_identity_fields_are_set_and_cannot_be_forged(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account(features={"analysis": True, "seats": 5, "tier": "gold", "off": False})
        forged = {
            "X-Gateway-User": "root",
            "x-gateway-key": "other",
            "X_Gateway_Plan": "enterprise",
            "x-gateway_features": "all",
            "X-Gateway-Admin": "1",
        }
        await data_plane.http.get("/v1/things/1", headers=account.auth | forged)
        said = {
            name: value for name, value in data_plane.upstream.last.fields if name.replace("_", "-").startswith("x-gat")
        }
        assert said == {
            "x-gateway-user": str(account.user_id),
            "x-gateway-key": str(account.key_id),
            "x-gateway-plan": account.plan.terms.name,
            "x-gateway-features": "analysis,seats=5,tier=gold",
        }

    async def test_forwarded_headers_are_set_and_cannot_be_forged(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        await data_plane.get(
            account,
            host="api.example.com",
            x_forwarded_for="203.0.113.9",
            x_forwarded_proto="https",
            x_forwarded_host="evil.test",
            x_forwarded_port="444",
            x_real_ip="203.0.113.9",
            forwarded="for=203.0.113.9",
            via="1.0 before",
            traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
            tracestate="x=y",
        )
        seen = data_plane.upstream.last
        assert seen["x-forwarded-for"] == "127.0.0.1"
        assert seen["x-forwarded-proto"] == "http"
        assert seen["x-forwarded-host"] == "api.example.com"
        assert seen["via"] == "1.0 before, 1.1 gateway"
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", seen["traceparent"])
        assert "a" * 32 not in seen["traceparent"]
        names = {name for name, _ in seen.fields}
        assert not {"x-forwarded-port", "x-real-ip", "forwarded", "tracestate"} & names
        assert seen["host"] == data_plane.upstream.url.removeprefix("http://")

    async def test_hop_by_hop_fields_of_the_client_are_not_forwarded(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        await data_plane.get(
            account,
            connection="keep-alive, X-Private, x-gateway-user",
            x_private="secret",
            keep_alive="timeout=1",
            te="trailers",
            proxy_authorization="Basic dTpw",
            proxy_connection="keep-alive",
            x_public="seen",
        )
        names = {name for name, _ in data_plane.upstream.last.fields}
        assert {"x-public", "x-gateway-user"} <= names
        assert not {"x-private", "keep-alive", "te", "proxy-authorization", "proxy-connection", "connection"} & names

    async def test_end_to_end_fields_are_forwarded_unchanged(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        fields = [
            ("accept", "text/html;q=0.9, */*"),
            ("cookie", "a=1; b=2"),
            ("if-none-match", '"x"'),
            ("x-twice", "1"),
            ("x-twice", "2"),
            ("user-agent", "test"),
            ("accept-encoding", "br"),
            ("idempotency-key", "k"),
        ]
        async with data_plane.connect() as client:
            await client.request(account, "GET /v1/things/1", *(f"{name}: {value}" for name, value in fields))
            await client.read_head()
        assert [pair for pair in data_plane.upstream.last.fields if pair in fields] == fields


class TestShapesOfAnswers:
    @pytest.mark.parametrize("status", [200, 301, 404, 500])
    async def test_head_response_has_the_fields_of_a_body_and_no_body(self, data_plane: DataPlane, status: int) -> None:
        account = await data_plane.create_account()

        async def answer(exchange: Exchange) -> None:
            await exchange.write(b"HTTP/1.1 %d Said\r\ncontent-length: 1234\r\netag: x\r\n\r\n" % status)

        data_plane.upstream.answer = answer
        async with data_plane.connect() as client:
            for _ in range(2):
                await client.request(account, "HEAD /v1/things/1")
                code, fields = await client.read_head()
                assert (code, fields["content-length"], fields["etag"]) == (status, "1234", "x")

    async def test_head_response_of_unknown_length_has_no_length(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        data_plane.upstream.respond_with_bytes(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        async with data_plane.connect() as client:
            await client.request(account, "HEAD /v1/things/1", "connection: close")
            assert (await client.read_head())[0] == 200
            assert await client.read_rest() == b""

    @pytest.mark.parametrize("length", [b"", b"content-length: 1234\r\n"])
    async def test_not_modified_has_no_body(self, data_plane: DataPlane, length: bytes) -> None:
        account = await data_plane.create_account()

        async def answer(exchange: Exchange) -> None:
            await exchange.write(b"HTTP/1.1 304 Not Modified\r\netag: x\r\n" + length + b"\r\n")

        data_plane.upstream.answer = answer
        async with data_plane.connect() as client:
            for _ in range(2):
                await client.request(account, "GET /v1/things/1")
                status, fields = await client.read_head()
                assert (status, fields["etag"]) == (304, "x")
                assert "transfer-encoding" not in fields

    async def test_no_content_has_neither_body_nor_framing(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        data_plane.upstream.respond_with(204, b"", content_length="", content_type="")
        async with data_plane.connect() as client:
            for _ in range(2):
                await client.request(account, "DELETE /v1/things/1")
                status, fields = await client.read_head()
                assert status == 204
                assert not {"transfer-encoding", "content-length"} & fields.keys()

    async def test_redirect_is_passed_to_the_client(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        data_plane.upstream.respond_with(307, b"", location="https://elsewhere.example.com/x?y=1")
        answer = await data_plane.post(account)
        assert (answer.status_code, answer.headers["location"]) == (307, "https://elsewhere.example.com/x?y=1")
        assert len(data_plane.upstream.exchanges) == 1

    async def test_response_delimited_by_close_arrives_whole(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        data_plane.upstream.respond_with_bytes(b"HTTP/1.1 200 OK\r\n\r\n", b"until ", b"the end")
        assert (await data_plane.get(account)).content == b"until the end"

    async def test_large_compressed_body_arrives_unchanged(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        body = gzip.compress(json.dumps(list(range(200_000))).encode())
        data_plane.upstream.respond_with(200, body, content_encoding="gzip")
        async with data_plane.http.stream("GET", "/v1/things/1", headers=account.auth) as answer:
            raw = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == "gzip"
        assert raw == body
        assert (await data_plane.usage_row(account))["response_bytes"] == len(body)


class TestStreaming:
    async def test_events_arrive_one_by_one_before_the_upstream_ends(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        seen = asyncio.Queue[None]()

        async def answer(exchange: Exchange) -> None:
            await exchange.read()
            await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            for number in range(5):
                await exchange.write(b"data: %d\n\n" % number)
                await seen.get()
            exchange.writer.close()

        data_plane.upstream.answer = answer
        async with data_plane.connect() as client:
            await client.request(account, "POST /v1/chat", body=b"{}")
            _, fields = await client.read_head()
            assert "x-credits-charged" not in fields
            assert fields["x-credits-remaining"] == "95"
            for number in range(5):
                assert b"data: %d\n\n" % number in await client.read_until(b"\n\n")
                seen.put_nowait(None)

    async def test_upload_reaches_the_upstream_while_it_is_still_being_sent(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        pieces = asyncio.Queue[bytes]()

        async def answer(exchange: Exchange) -> None:
            async for chunk in exchange.chunks():
                pieces.put_nowait(chunk)
            await exchange.reply()

        data_plane.upstream.answer = answer
        async with data_plane.connect() as client:
            await client.request(account, "POST /v1/things/1", "transfer-encoding: chunked")
            first = b"x" * (STREAMED_FROM_BYTES + 1)
            await client.send(b"%x\r\n%b\r\n" % (len(first), first))
            received = b""
            while len(received) < len(first):
                received += await asyncio.wait_for(pieces.get(), 5)
            for number in range(3):
                await client.send(b"5\r\npiec%d\r\n" % number)
                assert await asyncio.wait_for(pieces.get(), 5) == b"piec%d" % number
            await client.send(b"0\r\n\r\n")
            assert (await client.read_head())[0] == 200
        assert data_plane.upstream.last["transfer-encoding"] == "chunked"
        assert data_plane.upstream.last.all("content-length") == []

    async def test_upload_of_known_length_keeps_it(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        body = b"x" * 1_000_000
        await data_plane.post(account, content=body)
        assert data_plane.upstream.last["content-length"] == "1000000"
        assert data_plane.upstream.last.body == body
        assert data_plane.upstream.last.all("transfer-encoding") == []

    async def test_upstream_that_does_not_read_pauses_the_client(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        may_read = asyncio.Event()

        async def answer(exchange: Exchange) -> None:
            await may_read.wait()
            await exchange.read()
            await exchange.reply()

        data_plane.upstream.answer = answer
        length = 50_000_000
        async with data_plane.connect() as client:
            await client.request(account, "POST /v1/things/1", f"content-length: {length}")
            client.writer.write(b"x" * length)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.writer.drain(), 0.3)
            may_read.set()
            assert (await client.read_head())[0] == 200
        assert len(data_plane.upstream.last.body) == length

    async def test_expect_continue_is_answered_when_the_upstream_is_connected(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        async with data_plane.connect() as client:
            await client.request(account, "POST /v1/things/1", "content-length: 5", "expect: 100-continue")
            assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            await client.send(b"hello")
            assert (await client.read_head())[0] == 200
        assert data_plane.upstream.last.body == b"hello"
        assert data_plane.upstream.last.all("expect") == []


class TestPrices:
    @pytest.mark.parametrize(
        ("products", "charged"), [([], 1), ([1], 1), ([1, 2, 3], 3), (4, 4), (0, 1), (list(range(10)), 10)]
    )
    async def test_items_of_the_request_are_charged(
        self, data_plane: DataPlane, products: object, charged: int
    ) -> None:
        account = await data_plane.create_account()
        body = json.dumps({"products": products}).encode()
        answer = await data_plane.post(account, "/v1/generate", body)
        await self._assert_charged(data_plane, account, charged)
        assert answer.headers["x-credits-charged"] == str(charged)
        assert data_plane.upstream.last.body == body

    @pytest.mark.parametrize(
        ("body", "charged"),
        [
            (b'{"usage": {"total_tokens": 1}}', 1),
            (b'{"usage": {"total_tokens": 1000}}', 1),
            (b'{"usage": {"total_tokens": 1001}}', 2),
            (b'{"usage": {"total_tokens": 0}}', 0),
            (b'{"usage": {"total_tokens": 12000}}', 12),
            (b'{"usage": {}}', 5),
            (b'{"usage": {"total_tokens": -1}}', 5),
            (b'{"usage": {"total_tokens": "1"}}', 5),
            (b"not json", 5),
        ],
    )
    @pytest.mark.parametrize("encoding", ["", "gzip"])
    async def test_tokens_of_a_json_response_are_charged(
        self, data_plane: DataPlane, body: bytes, charged: int, encoding: str
    ) -> None:
        account = await data_plane.create_account()
        sent = gzip.compress(body) if encoding else body
        data_plane.upstream.respond_with(200, sent, content_encoding=encoding)
        assert (await data_plane.post(account, "/v1/chat")).status_code == 200
        await self._assert_charged(data_plane, account, charged)

    async def test_tokens_of_an_event_are_charged(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        events = b'data: {"a": 1}\n\ndata: {"usage": {"total_tokens": 3500}}\r\n\r\ndata: [DONE]\n\n'
        data_plane.upstream.respond_with(200, events, content_type="text/event-stream; charset=utf-8")
        answer = await data_plane.post(account, "/v1/chat")
        assert answer.content == events
        await self._assert_charged(data_plane, account, 4)
        assert (await data_plane.usage_row(account))["tokens_used"] == 3500

    async def test_tokens_of_the_upstreams_report_are_charged(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        data_plane.upstream.respond_with(200, b"<html>", content_type="text/html", gateway_tokens="2001")
        assert (await data_plane.post(account, "/v1/chat")).content == b"<html>"
        await self._assert_charged(data_plane, account, 3)

    @pytest.mark.parametrize(("status", "asked"), [(200, 0), (200, 3), (200, 150), (404, 2), (503, 0)])
    async def test_reported_credits_outrank_the_price(self, data_plane: DataPlane, status: int, asked: int) -> None:
        account = await data_plane.create_account()
        data_plane.upstream.respond_with(status, gateway_credits=str(asked))
        answer = await data_plane.get(account, "/v1/dear")
        assert answer.headers["x-credits-charged"] == str(asked)
        assert answer.headers["x-credits-remaining"] == str(100 - asked)
        assert (await data_plane.usage_row(account))["metadata"] == {"balance_after": 100 - asked}
        await self._assert_charged(data_plane, account, asked)

    @pytest.mark.parametrize("asked", ["-1", "1.5", "x", "1e3", "0x10", "9" * 13, "1 2", "٣"])
    async def test_invalid_credits_report_is_ignored(self, data_plane: DataPlane, asked: str) -> None:
        account = await data_plane.create_account()
        data_plane.upstream.respond_with_bytes(
            b"HTTP/1.1 200 OK\r\ngateway-credits: %b\r\ncontent-length: 2\r\n\r\nok" % asked.encode(),
        )
        answer = await data_plane.get(account, "/v1/dear")
        assert answer.headers["x-credits-charged"] == "7"
        assert "gateway-credits" not in answer.headers
        await self._assert_charged(data_plane, account, 7)

    async def test_free_call_is_recorded(self, data_plane: DataPlane) -> None:
        account = await data_plane.create_account()
        assert (await data_plane.get(account, "/v1/free")).status_code == 200
        await self._assert_charged(data_plane, account, 0)

    async def _assert_charged(self, data_plane: DataPlane, account: Account, credits: int) -> None:
        assert (await data_plane.usage_row(account))["credits_charged"] == credits
        assert (await data_plane.redis_state(account)).balance == 100 - credits
        assert await data_plane.stored_balance(account) == 100 - credits
