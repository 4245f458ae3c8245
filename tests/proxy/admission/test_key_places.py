"""Keys: where they may stand, and that none of the gateway's goes on, wherever a client puts it."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import AsyncIterator
from secrets import token_bytes

import pytest

from gateway import metrics
from gateway.proxy.telemetry.access_log import AccessLog
from policies.access.keys import ENTROPY_BYTES, compose
from tests.proxy.conftest import Configure, Serve
from tests.proxy.data_plane import Account, DataPlane
from tests.proxy.problems import assert_problem
from tests.proxy.sockets import handshake_fields, switch
from tests.proxy.upstream import Exchange
from tests.support.sampling import seeded_random

FORM = {"content-type": "application/x-www-form-urlencoded"}
MULTIPART = {"content-type": "multipart/form-data; boundary=b"}


def seen(exchange: Exchange) -> str:
    """All that an upstream got of a request."""
    return "\n".join((exchange.target, *(f"{name}: {value}" for name, value in exchange.fields), repr(exchange.body)))


@pytest.fixture
async def by_query(serve: Serve, configure: Configure) -> DataPlane:
    return await serve(configure(keys__query="key"))


@pytest.mark.parametrize(
    "field",
    ["x-api-key: {}", "x-goog-api-key: {}", "api-key: {}", "authorization: Bearer {}", "authorization: bearer  {}"],
)
async def test_key_of_each_make_of_client_opens_and_does_not_go_on(data_plane: DataPlane, field: str) -> None:
    account = await data_plane.create_account()
    name, _, value = field.format(account.key).partition(": ")
    answer = await data_plane.http.get("/v1/open/1", headers={name: value})
    assert answer.status_code == 200
    assert account.key not in seen(data_plane.upstream.last)


async def test_key_in_the_query_opens_where_the_configuration_says_so(
    by_query: DataPlane, data_plane: DataPlane
) -> None:
    account = await by_query.create_account()
    answer = await by_query.http.get(f"/v1/things/1?alt=sse&key={account.key}&b=%20")
    assert answer.status_code == 200
    assert by_query.upstream.last.target == "/v1/things/1?alt=sse&b=%20"
    assert_problem(await data_plane.http.get(f"/v1/things/1?key={account.key}"), 401, "missing_key")
    assert_problem(await by_query.http.get(f"/v1/things/1?token={account.key}"), 401, "missing_key")


@pytest.mark.parametrize("place", ["query", "subprotocol"])
async def test_key_of_a_browsers_websocket_opens_and_does_not_go_on(data_plane: DataPlane, place: str) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.answer = lambda exchange: switch(exchange, sec_websocket_protocol="realtime")
    offered = "realtime, beta-v1"
    fields = handshake_fields(sec_websocket_protocol=offered)
    path = f"/v1/open/rt?key={account.key}&model=m"
    if place == "subprotocol":
        fields = handshake_fields(sec_websocket_protocol=f"realtime, openai-insecure-api-key.{account.key}, beta-v1")
        path = "/v1/open/rt?model=m"
    async with data_plane.connect() as wire:
        await wire.send("\r\n".join([f"GET {path} HTTP/1.1", "host: x", *fields, "", ""]).encode())
        status, answered = await wire.read_head()
    assert (status, answered["sec-websocket-protocol"]) == (101, "realtime")
    exchange = data_plane.upstream.last
    assert (exchange.target, exchange["sec-websocket-protocol"]) == ("/v1/open/rt?model=m", offered)
    assert account.key not in seen(exchange)


async def test_subprotocol_opens_no_other_route_on_the_same_connection(data_plane: DataPlane) -> None:
    """What a connection remembers of a key holds for the routes that take it from there."""
    account = await data_plane.create_account()
    fields = (f"sec-websocket-protocol: openai-insecure-api-key.{account.key}", "host: x", "", "")
    async with data_plane.connect() as wire:
        for path, expected in (("/v1/open/1", 200), ("/v1/things/1", 401), ("/v1/open/1", 200)):
            await wire.send("\r\n".join((f"GET {path} HTTP/1.1", *fields)).encode())
            status, answered = await wire.read_head()
            await wire.reader.readexactly(int(answered["content-length"]))
            assert status == expected


async def test_query_key_is_not_remembered_for_the_connection(by_query: DataPlane) -> None:
    first, second = await by_query.create_account(), await by_query.create_account()
    async with by_query.connect() as wire:
        for query, expected in ((f"?key={first.key}", 200), ("", 401), (f"?key={second.key}", 200), ("?a", 401)):
            await wire.send(f"GET /v1/things/1{query} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            status, answered = await wire.read_head()
            await wire.reader.readexactly(int(answered["content-length"]))
            assert status == expected
    assert [len(await by_query.usage_rows(account)) for account in (first, second)] == [1, 1]


async def test_each_call_of_a_connection_that_customers_share_is_its_own_customers(data_plane: DataPlane) -> None:
    """As behind a proxy that pools: what the connection remembers is never taken for what another one sent."""
    random = seeded_random("shared connection")
    accounts = [await data_plane.create_account(credits=100) for _ in range(3)]
    unknown = compose("gw", token_bytes(ENTROPY_BYTES)).secret
    calls: Counter[str] = Counter()
    async with data_plane.connect() as wire:
        for number in range(200):
            account = random.choice([*accounts, None, None])
            key = random.choice([unknown, "", "other"]) if account is None else account.key
            field = random.choice(["x-api-key: {}", "authorization: Bearer {}", "api-key: {}"]).format(key)
            lines = ["GET /v1/things/1 HTTP/1.1", "host: x", field, random.choice(["x-category: a", "x-category: b"])]
            lines += random.choice([[], [f"x-request-id: {number}"], ["x-forwarded-for: 192.0.2.7"]])
            await wire.send("\r\n".join([*lines, "", ""]).encode())
            status, answered = await wire.read_head()
            await wire.reader.readexactly(int(answered["content-length"]))
            assert status in ((401, 429) if account is None else (200,)), (number, lines)
            if account is not None:
                assert data_plane.upstream.last["x-gateway-user"] == str(account.user_id)
                calls[account.key] += 1
    assert [len(await data_plane.usage_rows(each)) for each in accounts] == [calls[each.key] for each in accounts]


@pytest.mark.parametrize("other", ["x-api-key: {}", "x-goog-api-key: {}", "authorization: Bearer {}", "?key={}"])
async def test_two_keys_that_differ_are_refused(by_query: DataPlane, other: str) -> None:
    account, rival = await by_query.create_account(), compose("gw", token_bytes(ENTROPY_BYTES)).secret
    given, path = {"api-key": account.key}, "/v1/things/1"
    if other.startswith("?"):
        path += other.format(rival)
    else:
        name, _, value = other.format(rival).partition(": ")
        given[name] = value
    assert_problem(await by_query.http.get(path, headers=given), 400, "bad_request")
    assert by_query.upstream.exchanges == []
    same = await by_query.http.get(
        f"/v1/things/1?key={account.key}", headers={"x-api-key": account.key, "authorization": f"Bearer {account.key}"}
    )
    assert same.status_code == 200


async def test_credentials_of_the_client_go_on_only_where_the_upstream_takes_them(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    theirs = {"authorization": "Bearer sk-ant-oat01-A", "api-key": "azure", "x-goog-api-key": "AIza"}
    for path, expected in (
        ("/v1/plain", {"authorization": [], "api-key": [], "x-goog-api-key": []}),
        ("/v1/things/1", {"authorization": ["Bearer of-the-upstream"], "api-key": [], "x-goog-api-key": []}),
        (
            "/v1/open/1",
            {
                "authorization": ["Bearer sk-ant-oat01-A"],
                "api-key": ["azure"],
                "x-goog-api-key": ["of-the-upstream"],  # what is configured is never replaced
            },
        ),
    ):
        assert (await data_plane.http.get(path, headers=account.auth | theirs)).status_code == 200
        assert {name: data_plane.upstream.last.all(name) for name in expected} == expected


async def test_imported_key_does_not_go_on_as_a_credential(data_plane: DataPlane) -> None:
    """A key without the gateway's form is the key, so it is meant for no upstream."""
    answer = await data_plane.http.get("/v1/open/1", headers={"authorization": "Bearer sk-imported"})
    assert_problem(answer, 401, "invalid_key")
    assert data_plane.upstream.exchanges == []


Place = tuple[str, str, dict[str, str], bytes]


def places(key: str) -> list[Place]:
    """Requests that carry a key in all kinds of places besides the one where it belongs."""
    escaped, basic = key.replace("_", "%5f"), base64.b64encode(f"{key}:".encode()).decode()
    fields = {
        "x-goog-api-key": key,
        "api-key": key,
        "authorization": f"Bearer {key}",
        "x-request-id": key,
        "x-category": key,
        "x-batch-id": f"batch-{key}",
        "x-language-code": key,
        "x-file-name": f"{key}.csv",
        "content-disposition": f'attachment; filename="{key}.csv"',
        "referer": f"https://app.example/?key={escaped}",
        "cookie": f"session=1; key={key}",
        "user-agent": f"curl {key}",
        "x-forwarded-for": key,
        "via": key,
        "idempotency-key": key,
        "accept": key,
        "host": key,
        "sec-websocket-protocol": f"a, {key}, b",
        "proxy-authorization": f"Bearer {key}",
        "content-encoding": key,
        "traceparent": key,
    }
    named: list[Place] = [("POST", "/v1/open/1", {name: value}, b"x") for name, value in fields.items()]
    basics: list[Place] = [("POST", "/v1/open/1", {"authorization": f"Basic {basic}"}, b"x")]
    queries = [f"?key={key}", f"?a=1&token={key}", f"?{key}=1", f"?q=x{escaped}x", f"?key={key}&key={escaped}"]
    asked: list[Place] = [("POST", f"/v1/open/1{query}", {}, b"x") for query in queries]
    paths: list[Place] = [
        ("POST", f"/v1/open/{each}", {}, b"x") for each in (key, f"a{escaped}/b", key.replace("g", "%67", 1))
    ]
    form = f"a=1&key={key}".encode(), f"a=1&key={escaped}".encode(), b"a" * 100_000 + key.encode()
    part = f'--b\r\ncontent-disposition: form-data; name="key"\r\n\r\n{key}\r\n--b--\r\n'.encode()
    file = f'--b\r\ncontent-disposition: form-data; name="f"; filename="{key}"\r\n\r\nx\r\n--b--\r\n'.encode()
    forms: list[Place] = [("POST", path, FORM, body) for path in ("/v1/open/1", "/v1/analyze") for body in form[:2]]
    forms += [("POST", "/v1/open/1", FORM, form[2])]
    forms += [("POST", "/v1/analyze", MULTIPART, body) for body in (part, file)]
    texts: list[Place] = [("POST", "/v1/generate", {}, f'{{"products": [1], "category": "{key}"}}'.encode())]
    models: list[Place] = [("POST", "/v1/chat/completions", {}, f'{{"model": "gpt-4o{key}", "messages": []}}'.encode())]
    return [*named, *basics, *asked, *paths, *forms, *texts, *models]


async def test_no_key_reaches_an_upstream_a_log_a_metric_or_a_row(
    data_plane: DataPlane, capfd: pytest.CaptureFixture[str]
) -> None:
    account = await data_plane.create_account(credits=1000, features={"analysis": True})
    read_end, write_end = os.pipe()
    telemetry = data_plane.handler.telemetry
    before, telemetry._access_log = telemetry._access_log, AccessLog(write_end)
    told = []
    for method, path, fields, body in places(account.key):
        given = account.auth | {name: value for name, value in fields.items() if name != "host"}
        request = data_plane.http.build_request(method, data_plane.url + path, headers=given, content=body)
        if "host" in fields:
            request.headers["host"] = fields["host"]
        answer = await data_plane.http.send(request)
        assert answer.status_code in (200, 400, 403), answer.text
        told.append(f"{answer.headers} {answer.text}")
    telemetry._access_log.close()
    telemetry._access_log = before
    os.close(write_end)
    with os.fdopen(read_end) as log:
        logged = log.read() + capfd.readouterr().err
    await metrics.MetricsFlusher().run_once()
    rows = [*await data_plane.usage_rows(account), *await data_plane.analysis_rows(account)]
    assert logged.count('"event":"request"') == len(places(account.key))
    for where, text in {
        "upstream": "\n".join(upstream_saw(exchange, account) for exchange in data_plane.upstream.exchanges),
        "log": logged,
        "metrics": metrics.exposition().decode(),
        "rows": repr(rows),
        "answers": repr(told),
    }.items():
        for spelling in (account.key, account.key.replace("_", "%5f"), account.key.partition("_live_")[2]):
            assert spelling not in text, where
    assert len(rows) > 20


def upstream_saw(exchange: Exchange, account: Account) -> str:
    """JSON is content, which the gateway never changes; of anything else not even the body holds a key."""
    if exchange.target in ("/v1/generate", "/v1/chat/completions"):
        exchange.body.clear()
    basic = base64.b64encode(f"{account.key}:".encode()).decode()
    return seen(exchange).replace(basic, account.key)


async def test_form_with_a_key_counts_nothing(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    await data_plane.get(account)
    async with data_plane.assert_unchanged(account):
        answer = await data_plane.http.post(
            "/v1/things/1", headers=account.auth | FORM, content=f"key={account.key}".encode()
        )
    assert "Bearer" in assert_problem(answer, 400, "bad_request")["detail"]


async def test_streamed_form_never_carries_a_key_that_comes_in_pieces(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    content = b"a" * 70_000 + b"&key=" + account.key.encode() + b"&b=1"

    async def pieces(size: int) -> AsyncIterator[bytes]:
        yield content[:69_990]
        for start in range(69_990, len(content), size):
            yield content[start : start + size]

    for size in (1, 7, 50):
        answer = await data_plane.http.post("/v1/things/1", headers=account.auth | FORM, content=pieces(size))
        assert_problem(answer, 400, "bad_request")
    bodies = b"".join(bytes(exchange.body) for exchange in data_plane.upstream.exchanges)
    assert account.key[:12].encode() not in bodies
    assert [row["credits_charged"] for row in await data_plane.usage_rows(account)] == [0, 0, 0]


async def test_streamed_form_without_a_key_arrives_whole(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    content = b"a=" + b"gw_live_" * 20_000

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 9_999):
            yield content[start : start + 9_999]

    answer = await data_plane.http.post("/v1/things/1", headers=account.auth | FORM, content=pieces())
    assert answer.status_code == 200
    assert bytes(data_plane.upstream.last.body) == content
