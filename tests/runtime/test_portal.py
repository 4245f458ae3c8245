"""Pages never run where calls are served: a public listener forwards them, and says who the client is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from gateway.paced_subjects import PacedSubjects
from gateway.runtime.portal import MAX_BODY_BYTES, MAX_CONNECTIONS, SHARE_OF_ADDRESS, PeerFilter, PortalForwarder
from policies.access.throttling import Pace
from tests.listener.listening import listening
from tests.support.polling import eventually

SECRET = "secret-of-the-tests"


async def pages(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells what it is told, and streams where it is asked to."""
    request = Request(scope, receive)
    response: ASGIApp
    if request.url.path == "/portal/lasting":
        await receive()
        await receive()  # until the client goes
        return
    if request.url.path == "/portal/broken":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        return  # uvicorn closes the connection then
    if request.url.path == "/portal/long":
        response = StreamingResponse(b"x" * 1000 for _ in range(500))
    else:
        seen = {"client": scope["client"][0], "scheme": scope["scheme"], "fields": sorted(request.headers)}
        seen |= {"host": request.headers["host"], "target": str(request.url), "body": (await request.body()).decode()}
        response = JSONResponse(seen, headers={"set-cookie": "a=1"})
    await response(scope, receive, send)


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """Where the pages are served."""
    config = uvicorn.Config(PeerFilter(pages, SECRET), log_config=None, lifespan="off", server_header=False)
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await serving


@pytest.fixture
async def forwarder(address: str) -> AsyncIterator[PortalForwarder]:
    made = PortalForwarder(address, secret=SECRET, trusted_proxies=(ip_network("10.0.0.0/8"),))
    yield made
    await made.close()


def browser(forwarder: PortalForwarder, client_ip: str = "192.0.2.7") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(forwarder, client=(client_ip, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://api.example.com")


async def test_a_page_learns_who_asks_and_nothing_that_it_does_not_read(forwarder: PortalForwarder) -> None:
    forged = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https", "x-gateway-peer": "x 203.0.113.9 https"}
    async with browser(forwarder) as client:
        response = await client.post(
            "/portal/a?b=c", content="d=e", headers={**forged, "x-api-key": "k", "cookie": "f=g"}
        )
    seen = response.json()
    assert (seen["client"], seen["scheme"], seen["host"]) == ("192.0.2.7", "http", "api.example.com")
    assert (seen["target"], seen["body"]) == ("http://api.example.com/portal/a?b=c", "d=e")
    assert "cookie" in seen["fields"]
    assert not {"x-api-key", "x-gateway-peer", "x-forwarded-for"} & set(seen["fields"])
    assert response.headers["set-cookie"] == "a=1"


async def test_a_trusted_proxy_says_who_the_client_is(forwarder: PortalForwarder) -> None:
    fields = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https", "x-forwarded-host": "portal.example.com"}
    async with browser(forwarder, "10.1.2.3") as client:
        seen = (await client.get("/portal", headers=fields)).json()
    assert (seen["client"], seen["scheme"], seen["host"]) == ("203.0.113.9", "https", "portal.example.com")


async def test_a_long_response_is_streamed_whole(forwarder: PortalForwarder) -> None:
    async with browser(forwarder) as client:
        assert len((await client.get("/portal/long")).content) == 500_000


async def test_a_response_that_breaks_off_is_cut_and_no_fault_of_the_listener(forwarder: PortalForwarder) -> None:
    with capture_logs() as logs:
        await _see_a_broken_response(forwarder)
    assert not [each for each in logs if each["log_level"] == "error"]


async def _see_a_broken_response(forwarder: PortalForwarder) -> None:
    async with listening(forwarder) as listener, httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"http://127.0.0.1:{listener.port}/portal/broken")
        assert (await client.get(f"http://127.0.0.1:{listener.port}/portal/long")).status_code == 200


async def test_a_body_that_is_too_large_goes_no_further(forwarder: PortalForwarder) -> None:
    async with browser(forwarder) as client:
        response = await client.post("/portal", content=b"x" * (MAX_BODY_BYTES + 1))
    assert response.status_code == 413


async def test_a_form_that_breaks_off_goes_no_further(forwarder: PortalForwarder) -> None:
    """`amount=1000` would be another amount where its last digits are missing."""
    first: Message = {"type": "http.request", "body": b"amount=10", "more_body": True}
    messages: list[Message] = [first, {"type": "http.disconnect"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "http_version": "1.1",
        "client": ("::1", 1),
    }
    scope |= {"raw_path": b"/portal/a", "query_string": b"", "headers": [(b"content-length", b"11")]}
    await forwarder(scope | {"extensions": {}}, receive, send)
    assert sent == []


async def test_an_address_that_asks_for_page_after_page_leaves_the_workers_their_time(
    forwarder: PortalForwarder,
) -> None:
    forwarder._pace = PacedSubjects(Pace(burst=3, seconds_each=60))
    async with browser(forwarder, "2001:db8::1") as client, browser(forwarder, "2001:db8::2") as neighbour:
        responses = [await each.get("/portal") for each in (client, neighbour) for _ in range(2)]
        assert [each.status_code for each in responses] == [200, 200, 200, 429]
        assert responses[-1].headers["retry-after"] == "1"
    async with browser(forwarder) as other:
        assert (await other.get("/portal")).status_code == 200


async def test_pages_that_last_leave_connections_to_other_addresses(forwarder: PortalForwarder) -> None:
    async with browser(forwarder) as client, browser(forwarder, "192.0.2.8") as other:
        lasting = [asyncio.ensure_future(client.get("/portal/lasting")) for _ in range(2 * MAX_CONNECTIONS)]
        await eventually(lambda: "queued" in repr(forwarder._upstream) and " 0 queued" not in repr(forwarder._upstream))
        assert (await other.get("/portal")).status_code == 200
        assert f"[{int(MAX_CONNECTIONS * SHARE_OF_ADDRESS)} leased" in repr(forwarder._upstream)
        for each in lasting:
            each.cancel()
        await asyncio.wait(lasting)


async def test_who_does_not_know_the_secret_gets_nothing(address: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
        for fields in ({}, {"x-gateway-peer": ""}, {"x-gateway-peer": "wrong 203.0.113.9 https"}):
            assert (await client.get("/portal", headers=fields)).status_code == 404


async def test_a_portal_that_is_away_is_told_as_such() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    forwarder = PortalForwarder(f"127.0.0.1:{port}", secret=SECRET)
    async with browser(forwarder) as client:
        response = await client.get("/portal")
    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    await forwarder.close()


async def test_a_person_is_refused_by_a_page_and_a_script_by_a_document(forwarder: PortalForwarder) -> None:
    forwarder._pace = PacedSubjects(Pace(burst=0, seconds_each=60))
    forwarder._site = "<Acme>"
    async with browser(forwarder) as client:
        page = await client.get("/portal", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        document = await client.get("/portal", headers={"accept": "*/*"})
    assert (page.status_code, page.headers["retry-after"]) == (429, "1")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "&lt;Acme&gt;" in page.text
    assert "try again in a second" in page.text
    assert "style-src 'sha256-" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert (document.status_code, document.json()["code"]) == (429, "rate_limited")
