"""Pages of other origins: what a browser must be told before it lets one read a response.

`is_readable` and `passes_preflight` are the checks of https://fetch.spec.whatwg.org/#http-cors-protocol.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import metrics
from gateway.runtime.public_listener import PublicListener
from gateway.runtime.roles import public_server
from tests.proxy.conftest import Configure, Serve
from tests.proxy.data_plane import DataPlane, RawConnection

APP, PACKAGED, STRANGER = "https://app.example.com", "capacitor://localhost", "https://app.example.com.evil.test"
FIELDS_OF_CALLS = {
    *("ratelimit", "ratelimit-policy", "retry-after", "x-credits-remaining", "x-credits-charged"),
    *("x-request-id", "idempotency-replayed"),
}


@pytest.fixture
async def plane(serve: Serve, configure: Configure) -> DataPlane:
    return await serve(configure(server__cors__origins=["https://APP.example.com:443", PACKAGED]))


@pytest.fixture
async def browser(plane: DataPlane) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the public listener before the data plane."""
    async with _public(plane) as client:
        yield client


@asynccontextmanager
async def _public(plane: DataPlane) -> AsyncIterator[httpx.AsyncClient]:
    async def no_account(*_: object) -> None:
        raise AssertionError("the path is not reserved")

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        cors = plane.config.server.cors
        server = public_server(PublicListener(plane.handler, no_account, cors=cors), plane.config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.is_listening.wait()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as client:
            yield client
        server.should_exit = True
        await serving


def is_readable(answer: httpx.Response, origin: str) -> bool:
    """The CORS check: exactly one value, and the origin's own."""
    return answer.headers.get_list("access-control-allow-origin") == [origin]


def passes_preflight(answer: httpx.Response, origin: str, method: str, names: Sequence[str] = ()) -> bool:
    methods, allowed = (
        {each.strip() for each in answer.headers.get(f"access-control-allow-{what}", "").split(",")}
        for what in ("methods", "headers")
    )
    return (
        answer.is_success
        and is_readable(answer, origin)
        and method in methods | {"GET", "HEAD", "POST"}
        and set(names) <= allowed
    )


async def preflight(
    client: httpx.AsyncClient, path: str, origin: str = APP, *, method: str = "POST", names: str = ""
) -> httpx.Response:
    asked = {"access-control-request-headers": names} if names else {}
    headers = {"origin": origin, "access-control-request-method": method, **asked}
    return await client.request("OPTIONS", path, headers=headers)


async def test_preflight_is_answered_without_key_upstream_or_refusal(
    browser: httpx.AsyncClient, plane: DataPlane
) -> None:
    refused_before = _refusals()
    for origin in (APP, PACKAGED):
        answer = await preflight(browser, "/v1/post-only", origin, method="PUT", names="authorization,content-type")
        assert (answer.status_code, answer.content) == (204, b"")
        assert passes_preflight(answer, origin, "PUT", ["authorization", "content-type"])
        assert answer.headers["access-control-allow-methods"] == "POST, PUT"
        assert answer.headers["access-control-max-age"] == "7200"
        assert "access-control-allow-credentials" not in answer.headers
    assert _refusals() == refused_before
    assert plane.upstream.exchanges == []


async def test_preflight_of_a_route_with_options_is_not_forwarded(browser: httpx.AsyncClient, plane: DataPlane) -> None:
    """Any other OPTIONS is a call, and needs a key."""
    assert (await preflight(browser, "/v1/things/1")).status_code == 204
    assert (await browser.request("OPTIONS", "/v1/things/1", headers={"origin": APP})).status_code == 401
    assert plane.upstream.exchanges == []


@pytest.mark.parametrize("origin", [STRANGER, "http://app.example.com", "https://app.example.com:8443", "null", "*"])
async def test_no_other_origin_is_let_in(browser: httpx.AsyncClient, plane: DataPlane, origin: str) -> None:
    account = await plane.create_account()
    for answer in (
        await preflight(browser, "/v1/post-only", origin, names="x-api-key"),
        await browser.get("/v1/plain", headers={"origin": origin, **account.auth}),
    ):
        assert answer.is_success
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert "origin" in answer.headers["vary"].lower()


async def test_origin_sent_twice_is_none(browser: httpx.AsyncClient) -> None:
    answer = await browser.get("/v1/plain", headers=[("origin", APP), ("origin", APP)])
    assert "access-control-allow-origin" not in answer.headers


async def test_names_that_are_no_list_of_fields_are_not_reflected(browser: httpx.AsyncClient) -> None:
    answer = await preflight(browser, "/v1/post-only", names="x-api-key, <script>")
    assert "access-control-allow-headers" not in answer.headers


async def test_page_reads_limits_and_credits_of_a_call(browser: httpx.AsyncClient, plane: DataPlane) -> None:
    account = await plane.create_account()
    plane.upstream.respond_with(200, access_control_allow_origin="*", access_control_allow_credentials="true")
    answer = await browser.get("/v1/plain", headers={"origin": APP, **account.auth})
    assert is_readable(answer, APP)
    assert "access-control-allow-credentials" not in answer.headers
    exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert exposed >= FIELDS_OF_CALLS
    assert answer.headers["x-credits-charged"] == "1"


async def test_page_reads_a_stream(browser: httpx.AsyncClient, plane: DataPlane) -> None:
    account = await plane.create_account()
    head = b"HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\nvary: accept\r\ntransfer-encoding: chunked\r\n\r\n"
    plane.upstream.respond_with_bytes(head, b"3\r\none\r\n", b"0\r\n\r\n")
    answer = await browser.get("/v1/plain", headers={"origin": APP, **account.auth})
    assert is_readable(answer, APP)
    assert answer.text == "one"
    assert {each.strip() for each in answer.headers["vary"].split(",")} == {"accept", "origin"}


async def test_page_reads_refusals_failures_and_replays(browser: httpx.AsyncClient, plane: DataPlane) -> None:
    poor, rich = await plane.create_account(credits=0), await plane.create_account(requests_per_minute=2)
    origin = {"origin": APP}
    answers = [
        await browser.get("/v1/plain", headers=origin),
        await browser.get("/v1/plain", headers=origin | poor.auth),
        await browser.get("/nothing", headers=origin),
        *[await browser.post("/v1/plain", headers=origin | rich.auth | {"idempotency-key": "k"}) for _ in range(2)],
        await browser.get("/v1/plain", headers=origin | rich.auth),
        await browser.get("/v1/plain", headers=origin | rich.auth),
    ]
    assert [each.status_code for each in answers] == [401, 402, 404, 200, 200, 200, 429]
    assert all(is_readable(each, APP) for each in answers)
    assert answers[4].headers["idempotency-replayed"] == "true"


async def test_page_reads_why_its_upload_was_broken_off(browser: httpx.AsyncClient, plane: DataPlane) -> None:
    account = await plane.create_account()
    reader, writer = await asyncio.open_connection(browser.base_url.host, browser.base_url.port)
    client = RawConnection(reader, writer)
    fields = f"origin: {APP}", "expect: 100-continue", "transfer-encoding: chunked"
    await client.request(account, "POST /v1/plain", *fields)
    assert (await client.read_head())[0] == 100
    await client.send(b"no size\r\n")
    status, answered = await client.read_head()
    client.disconnect()
    assert (status, answered["access-control-allow-origin"], answered["vary"]) == (400, APP, "origin")


async def test_response_to_no_origin_varies_by_origin(browser: httpx.AsyncClient, plane: DataPlane) -> None:
    """Else a cache would answer a page with it, and the browser would keep it from the page."""
    account = await plane.create_account()
    answer = await browser.get("/v1/plain", headers=account.auth)
    assert answer.headers["vary"] == "origin"
    assert "access-control-allow-origin" not in answer.headers


async def test_upstream_speaks_for_itself_where_no_origin_is_configured(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(200, access_control_allow_origin="*")
    async with _public(data_plane) as client:
        answer = await client.get("/v1/plain", headers={"origin": APP, **account.auth})
        assert (is_readable(answer, "*"), "vary" in answer.headers) == (True, False)
        assert (await preflight(client, "/v1/plain")).status_code == 405


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM_SECONDS = 60.0  # only a failure waits so long
PAGE = """<!doctype html><script type="module">
const [url, key, next] = PARAMETERS;
const names = ["RateLimit", "RateLimit-Policy", "X-Credits-Remaining", "X-Credits-Charged", "X-Request-Id"];
async function called(path, init) {
  try {
    const answer = await fetch(url + path, init);
    return [answer.status, names.map(name => answer.headers.get(name)), await answer.text()];
  } catch (error) {
    return error.name;
  }
}
const headers = {"authorization": "Bearer " + key, "content-type": "application/json"};
const answers = [
  await called("/v1/plain", {method: "POST", headers, body: "{}"}),
  await called("/v1/plain", {headers: {"authorization": "Bearer none"}}),
  await called("/v1/plain", {}),
];
await fetch("/told", {method: "POST", body: JSON.stringify(answers)});
if (next) location = next;
</script>"""


class Page:
    """A page at an origin of its own, which calls the gateway and tells what it could read."""

    def __init__(self) -> None:
        self.told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.document = b""
        self.origin = ""

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Page]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
        except asyncio.IncompleteReadError:  # a connection that Chromium opened to have one
            writer.close()
            return
        length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or 0)
        body = await reader.readexactly(length)
        if head.startswith(b"post /told") and not self.told.done():
            self.told.set_result(json.loads(body))
        answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n%b"
        writer.write(answer % (len(self.document), self.document))
        writer.close()


@asynccontextmanager
async def chromium(profile: Path, url: str) -> AsyncIterator[None]:
    """Chromium without a window at this URL."""
    # Root has no sandbox, containers have a small /dev/shm, and no browser of a test asks its maker anything.
    flags = ("--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run")
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server")
    command = [str(CHROMIUM), *flags, *quiet, f"--user-data-dir={profile}", "--remote-debugging-port=0", url]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
async def test_chromium_lets_pages_of_listed_origins_read_calls_and_no_other(
    serve: Serve, configure: Configure, tmp_path: Path
) -> None:
    async with Page().served() as listed, Page().served() as stranger:
        plane = await serve(configure(server__cors__origins=[listed.origin]))
        key = (await plane.create_account(requests_per_minute=100)).auth["x-api-key"]
        async with _public(plane) as client:
            for page, following in ((listed, stranger.origin), (stranger, "")):
                parameters = json.dumps([str(client.base_url).rstrip("/"), key, following])
                page.document = PAGE.replace("PARAMETERS", parameters).encode()
            async with chromium(tmp_path, listed.origin), asyncio.timeout(CHROMIUM_SECONDS):
                called, wrong, anonymous = await listed.told
                calls = len(plane.upstream.exchanges)
                assert await stranger.told == ["TypeError"] * 3
    assert (called[0], called[1][3]) == (200, "1")
    assert all(called[1])
    assert [(answer[0], json.loads(answer[2])["code"]) for answer in (wrong, anonymous)] == [
        (401, "invalid_key"),
        (401, "missing_key"),
    ]
    assert calls == len(plane.upstream.exchanges) == 1  # the stranger's call ended with its preflight


def _refusals() -> float:
    return sum(sample.value for metric in metrics.REFUSALS.collect() for sample in metric.samples)
