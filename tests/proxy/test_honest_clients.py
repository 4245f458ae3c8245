"""Clients that are honest and unusual: HTTP/1.0, ranges, conditions, odd hosts, cookies, half-closed connections."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from tests.proxy.data_plane import ANSWER_SECONDS, Account, DataPlane, RawConnection
from tests.proxy.problems import assert_problem
from tests.proxy.upstream import Exchange
from tests.support.polling import eventually

FILE = bytes(range(200))


async def _file(exchange: Exchange) -> None:
    """A file server: ranges, conditions, HEAD."""
    await exchange.read()
    asked, known = exchange.all("range"), exchange.all("if-none-match")
    if known == ['"v1"']:
        await exchange.write(b'HTTP/1.1 304 Not Modified\r\netag: "v1"\r\n\r\n')
    elif asked == ["bytes=900-"]:
        await exchange.reply(416, b"", content_range="bytes */200")
    elif asked:
        first, last = map(int, asked[0].removeprefix("bytes=").split("-"))
        await exchange.reply(206, FILE[first : last + 1], content_range=f"bytes {first}-{last}/200")
    elif exchange.method == "HEAD":
        await exchange.write(b'HTTP/1.1 200 OK\r\ncontent-length: 200\r\netag: "v1"\r\n\r\n')
    else:
        await exchange.reply(200, FILE, etag='"v1"')


async def _read(wire: RawConnection) -> bytes:
    async with asyncio.timeout(ANSWER_SECONDS):
        return await wire.reader.read()


async def _charges(data_plane: DataPlane, account: Account) -> list[tuple[int | None, int]]:
    await data_plane.settled_state(account)
    return [(row["status_code"], row["credits_charged"]) for row in await data_plane.usage_rows(account)]


# HTTP/1.0, and the end of connections.


@pytest.mark.parametrize("fields", [(), ("host: gw.test",), ("connection: keep-alive",), ("connection: close",)])
@pytest.mark.parametrize("body", [b"", b"hi"])
async def test_client_of_http_1_0_is_served_and_its_connection_closed(
    data_plane: DataPlane, fields: tuple[str, ...], body: bytes
) -> None:
    account = await data_plane.create_account()
    lines = [f"{'POST' if body else 'GET'} /v1/things/1 HTTP/1.0", f"x-api-key: {account.key}", *fields]
    lines += [f"content-length: {len(body)}"] if body else []
    async with data_plane.connect() as wire:
        await wire.send("\r\n".join([*lines, "", ""]).encode() + body)
        head, _, answered = (await _read(wire)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in head
    assert answered == b'{"ok": true}'
    assert bytes(data_plane.upstream.last.body) == body
    assert await _charges(data_plane, account) == [(200, 1)]


async def test_stream_to_a_client_of_http_1_0_ends_with_its_connection(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with_bytes(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"
    )
    async with data_plane.connect() as wire:
        await wire.send(f"GET /v1/things/1 HTTP/1.0\r\nx-api-key: {account.key}\r\n\r\n".encode())
        head, _, body = (await _read(wire)).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert body == b"onetwo"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("path", ["/v1/things/1", "/v1/chat"])
async def test_client_that_half_closes_gets_its_answer_and_pays_for_it(
    data_plane: DataPlane, version: str, path: str
) -> None:
    account, go_on = await data_plane.create_account(), asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        await go_on.wait()
        await exchange.reply(200, b'{"usage": {"total_tokens": 4000}}')

    data_plane.upstream.answer = answer
    async with data_plane.connect() as wire:
        head = f"POST {path} HTTP/{version}\r\nhost: gw.test\r\nx-api-key: {account.key}\r\ncontent-length: 2\r\n\r\n"
        await wire.send(head.encode() + b"{}")
        wire.writer.write_eof()
        begun = await wire.reader.readexactly(9)  # which comes when the FIN has
        go_on.set()
        assert (begun + await _read(wire)).startswith(b"HTTP/1.1 200 ")
    (row,) = await data_plane.usage_rows(account)
    assert (row["outcome"], row["credits_charged"]) == ("succeeded", 4 if path == "/v1/chat" else 1)


async def test_refusal_reaches_a_client_that_half_closes(data_plane: DataPlane) -> None:
    async with data_plane.connect() as wire:
        await wire.send(b"POST /v1/things/1 HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 2\r\n\r\nhi")
        wire.writer.write_eof()
        assert b'"code":"missing_key"' in (await _read(wire)).replace(b" ", b"")


async def test_client_that_closes_while_it_waits_for_a_connection_is_charged_nothing(data_plane: DataPlane) -> None:
    """By a FIN alone: its call is not sent, which a half-closed one is."""
    first, gone, half = [await data_plane.create_account() for _ in range(3)]
    go_on = asyncio.Event()
    for account in (gone, half):
        await data_plane.get(account, "/v1/free")
    data_plane.upstream.reset()

    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        await go_on.wait()
        await exchange.reply()

    data_plane.upstream.answer = answer
    async with data_plane.connect() as busy, data_plane.connect() as closing, data_plane.connect() as waiting:
        await busy.request(first, "GET /v1/patient")
        await eventually(lambda: len(data_plane.upstream.exchanges) == 1)
        await closing.request(gone, "GET /v1/patient")
        await waiting.request(half, "GET /v1/patient")
        closing.writer.close()
        waiting.writer.write_eof()
        async with asyncio.timeout(ANSWER_SECONDS):
            while len(await _charges(data_plane, gone)) < 2:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        go_on.set()
        assert (await _read(waiting)).startswith(b"HTTP/1.1 200 ")
    assert await _charges(data_plane, gone) == [(200, 0), (None, 0)]
    assert await _charges(data_plane, half) == [(200, 0), (200, 1)]
    assert len(data_plane.upstream.exchanges) == 2


# Parts, conditions, heads.


async def test_each_range_is_a_call_and_one_that_is_not_there_is_free(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.answer = _file
    for asked, status, body in (
        ("bytes=0-9", 206, FILE[:10]),
        ("bytes=10-19", 206, FILE[10:20]),
        ("bytes=900-", 416, b""),
    ):
        answer = await data_plane.get(account, range=asked, if_range='"v1"')
        assert (answer.status_code, answer.content) == (status, body)
        assert answer.headers["content-range"].endswith("/200")
        assert data_plane.upstream.last["if-range"] == '"v1"'
    assert await _charges(data_plane, account) == [(206, 1), (206, 1), (416, 0)]


async def test_unchanged_file_is_charged_where_its_route_says_so(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.answer = _file
    for path in ("/v1/things/1", "/v1/unchanged"):
        answer = await data_plane.get(account, path, if_none_match='"v1"')
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", '"v1"')
    assert await _charges(data_plane, account) == [(304, 0), (304, 1)]


async def test_head_costs_what_the_route_does(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.answer = _file
    answer = await data_plane.http.head("/v1/things/1", headers=account.auth)
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "200", b"")
    assert await _charges(data_plane, account) == [(200, 1)]


# Hosts and cookies.


@pytest.mark.parametrize(
    "host", ["gw.test.", "gw.test.:8080", "GW.test", "gw.test:", "[::1]", "[fe80::1%eth0]", "[fe80::1%25eth0]:8080"]
)
async def test_host_in_any_form_reaches_the_route(data_plane: DataPlane, host: str) -> None:
    account = await data_plane.create_account()
    answer = await data_plane.get(account, host=host)
    assert answer.status_code == 200
    assert data_plane.upstream.last["x-forwarded-host"] == host


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("a=1; __Host-gateway_portal_session=secret; b=2", "a=1; b=2"),
        ("gateway_portal_session=secret;gateway_portal_visit=x", ""),
        ("a=gateway_portal_session; gateway_portal_flash=x;c", "a=gateway_portal_session;c"),
        ("a=1;b=2", "a=1;b=2"),
    ],
)
async def test_cookies_of_the_portal_stay_here(data_plane: DataPlane, sent: str, received: str) -> None:
    account = await data_plane.create_account()
    answer = await data_plane.get(account, cookie=sent)
    assert answer.status_code == 200
    assert "; ".join(data_plane.upstream.last.all("cookie")) == received


@pytest.mark.parametrize("fields", [1, 4, 60, 100, 500])
async def test_many_cookies_pass_in_any_number_of_fields(data_plane: DataPlane, fields: int) -> None:
    account = await data_plane.create_account()
    cookies = [f"name{number}=value{number}" for number in range(max(fields, 100))]
    size = len(cookies) // fields
    parts = ["; ".join(cookies[start : start + size]) for start in range(0, len(cookies), size)]
    answer = await data_plane.http.get(
        "/v1/things/1", headers=[*account.auth.items(), *(("cookie", part) for part in parts)]
    )
    assert answer.status_code == 200
    received = "; ".join(data_plane.upstream.last.all("cookie"))
    assert received.split("; ") == cookies
    assert len(data_plane.upstream.last.fields) <= 100


async def test_other_fields_are_as_few_as_ever_beside_cookies(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    many = [("cookie", f"a{number}=b") for number in range(50)] + [(f"x-{number}", "y") for number in range(100)]
    answer = await data_plane.http.get("/v1/things/1", headers=[*account.auth.items(), *many])
    assert answer.status_code == 431


# Bodies.


@pytest.mark.parametrize("name", ["gzip", "x-gzip", "deflate", "GZIP"])
async def test_compressed_json_is_priced_and_passes_as_it_came(data_plane: DataPlane, name: str) -> None:
    account = await data_plane.create_account()
    content = b'{"products": [1, 2, 3]}'
    coded = zlib.compress(content) if name == "deflate" else gzip.compress(content)
    answer = await data_plane.post(account, "/v1/generate", coded, content_encoding=name)
    assert answer.status_code == 200
    assert (bytes(data_plane.upstream.last.body), data_plane.upstream.last["content-encoding"]) == (coded, name)
    assert await _charges(data_plane, account) == [(200, 3)]


@pytest.mark.parametrize("name", ["br", "zstd", "compress", "gzip, br"])
async def test_coding_that_no_price_can_be_read_from_is_named(data_plane: DataPlane, name: str) -> None:
    account = await data_plane.create_account()
    answer = await data_plane.post(account, "/v1/generate", b"\x1f\x8b", content_encoding=name)
    assert_problem(answer, 415, "unsupported_encoding")
    assert answer.headers["accept-encoding"] == "gzip, deflate, identity"
    assert not data_plane.upstream.exchanges


_NAMES: dict[str, tuple[bytes, str]] = {
    "plain": (b'filename="a.csv"', "a.csv"),
    "without quotes": (b"filename=a.csv", "a.csv"),
    "raw bytes": ('filename="Bücher 株.csv"'.encode(), "Bücher 株.csv"),
    "both forms": (b"filename=\"b.csv\"; filename*=UTF-8''B%C3%BCcher.csv", "Bücher.csv"),
    "extended first": (b"filename*=UTF-8''%E6%A0%AA.csv; filename=\"b.csv\"", "株.csv"),
    "encoded word": (b'filename="=?utf-8?B?QsO8Y2hlci5jc3Y=?="', "Bücher.csv"),
}


@pytest.mark.parametrize(("disposition", "name"), _NAMES.values(), ids=_NAMES.keys())
async def test_file_is_recorded_by_the_name_that_its_client_means(
    data_plane: DataPlane, disposition: bytes, name: str
) -> None:
    account = await data_plane.create_account()
    head = b'--b\r\ncontent-disposition: form-data; name="file"; ' + disposition + b"\r\n\r\n"
    content = head + b"a,b\r\n--b--\r\n"
    answer = await data_plane.post(account, "/v1/analyze", content, content_type="multipart/form-data; boundary=b")
    assert answer.status_code == 200
    assert bytes(data_plane.upstream.last.body) == content
    (row,) = await data_plane.analysis_rows(account)
    assert row["file_name"] == name
    assert row["file_size_bytes"] == 3
