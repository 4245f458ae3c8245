"""The portal runs beside the workers, never on the loop of calls: public listeners forward `/portal` to its process.

Both ends share a secret, so that no other program of this machine can say who the client is.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from html import escape
from importlib.resources import files
from string import Template
from types import MappingProxyType
from typing import Any

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.page_policy import policy_of
from gateway.config import Config
from gateway.http.fields import HeaderBlock, header_block
from gateway.http.problem_types import PROBLEM_TYPES
from gateway.http.problems import Problem, problem
from gateway.paced_subjects import PacedSubjects
from gateway.proxy.request.body import ClientDisconnected
from gateway.proxy.request.inbound import Inbound, Network, read_request
from gateway.request_ids import uuid7
from gateway.upstream.balancer import Upstream
from gateway.upstream.errors import UpstreamError
from gateway.upstream.request_head import Request
from gateway.upstream.response import Response
from policies.access.throttling import PAGES_FROM_ADDRESS, neighbourhood
from policies.access.tokens import Purpose, derive
from policies.model import Route

_PEER = b"x-gateway-peer"
# What pages read of a request; the rest of it stays here.
_PASSED = frozenset(
    {
        *(b"accept", b"accept-language", b"content-type", b"cookie", b"if-none-match", b"origin", b"sec-fetch-site"),
        *(b"user-agent", b"x-partial", b"x-request-id"),
    }
)
MAX_BODY_BYTES = 64 * 1024
MAX_CONNECTIONS = 64
SHARE_OF_ADDRESS = 0.25  # of the connections; a page that sends a test call holds one for as long as that takes
TIMEOUT_SECONDS = 60.0
_PAGE = files("gateway").joinpath("web/plain_page.html").read_text("utf-8")
_PAGE_POLICY = policy_of(_PAGE).encode()
TEST_CALL_SECONDS = 30.0


class PortalForwarder:
    """Serves `/portal` by the process at `address`. Costs the loop of calls a forwarded request, and no page.

    The workers run where the pages do, so an address has a pace and a share of the connections.
    """

    def __init__(
        self, address: str, *, secret: str, trusted_proxies: Sequence[Network] = (), site: str = "Gateway"
    ) -> None:
        """`site` is what the pages are called."""
        self._site = site
        self._upstream = Upstream(
            "portal",
            targets=[f"http://{address}"],
            max_connections=MAX_CONNECTIONS,
            max_share_per_account=SHARE_OF_ADDRESS,
            first_byte_timeout_seconds=TIMEOUT_SECONDS,
            total_timeout_seconds=600.0,
        )
        self._secret = peer_secret(secret)
        self._trusted_proxies = trusted_proxies
        self._pace = PacedSubjects(PAGES_FROM_ADDRESS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inbound = read_request(scope, self._trusted_proxies)
        subject = neighbourhood(inbound.client_ip)
        if not self._pace.take(subject):
            detail = "This address asks for pages too often; try again in a second."
            await self._refuse("rate_limited", detail, scope, extras={"retry_after": 1}).send(send)
            return
        try:
            body = await _read_body(receive) if inbound.content_length != 0 else b""
        except ClientDisconnected:
            return
        if body is None:
            await self._refuse("payload_too_large", "The form is too large.", scope).send(send)
            return
        block = self._block(scope, inbound)
        request = Request(inbound.method.encode(), inbound.target, block, body or None, account=subject)
        try:
            response = await self._upstream.send(request)
        except (UpstreamError, ValueError):
            detail = "The pages cannot be reached at the moment; try again shortly."
            await self._refuse("overloaded", detail, scope, extras={"retry_after": 2}).send(send)
            return
        try:
            await _pass_on(response, scope, send)
        finally:
            response.close()

    async def close(self) -> None:
        await self._upstream.close()

    def _refuse(
        self, code: str, detail: str, scope: Scope, *, extras: Mapping[str, object] = MappingProxyType({})
    ) -> Problem:
        """A page for a person, a problem document for a script."""
        document = problem(code, detail, request_id=uuid7(), extras=extras)
        accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
        return _page_of(document, code, detail, site=self._site) if b"text/html" in accept.lower() else document

    def _block(self, scope: Scope, inbound: Inbound) -> HeaderBlock:
        is_trusted = inbound.is_from_trusted_proxy
        scheme = (inbound.fields.get(b"x-forwarded-proto") if is_trusted else None) or inbound.scheme.encode()
        host = (inbound.fields.get(b"x-forwarded-host") if is_trusted else None) or inbound.fields.get(b"host", b"")
        lines = [b"%b: %b\r\n" % each for each in scope["headers"] if each[0] in _PASSED]
        peer = b"%b %b %b" % (self._secret, inbound.client_ip.encode(), scheme)
        return header_block(b"".join((*lines, b"host: %b\r\n%b: %b\r\n" % (host, _PEER, peer))))


def _page_of(document: Problem, code: str, detail: str, *, site: str) -> Problem:
    """The response in place of a problem document: the process of calls renders no templates, and has no assets."""
    texts = {"title": PROBLEM_TYPES[code].title, "site": site, "detail": detail, "code": code}
    body = Template(_PAGE).substitute({name: escape(text) for name, text in texts.items()}).encode()
    kept = [each for each in document.fields if each[0] not in (b"content-type", b"content-security-policy")]
    fields = (*kept, (b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", _PAGE_POLICY))
    return Problem(document.status, fields, body)


async def _pass_on(response: Response, scope: Scope, send: Send) -> None:
    """Sends the response. One that breaks off, or that the client does not take while others wait, is cut."""
    client = scope.get("extensions", {}).get("gateway.client")
    if client is not None:
        response.on_failure = lambda _: client.abort()
    headers = [each for each in response.headers if each[0] not in (b"date", b"server")]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    try:
        while not response.complete or response.buffered:
            await response.wait_for_more()
            await send({"type": "http.response.body", "body": response.take(), "more_body": True})
    except UpstreamError:
        return
    await send({"type": "http.response.body", "body": b""})


class PeerFilter:
    """Lets in who knows the secret, and tells the application who the client is."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._secret = peer_secret(secret)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        sent = next((value for name, value in scope["headers"] if name == _PEER), b"")
        secret, _, rest = sent.partition(b" ")
        if not hmac.compare_digest(secret, self._secret):
            await problem("not_found", "There is nothing here.", request_id=uuid7()).send(send)
            return
        client_ip, _, scheme = rest.decode("ascii").partition(" ")
        headers = [each for each in scope["headers"] if each[0] != _PEER]
        seen = {"client": (client_ip, 0), "scheme": scheme if scheme in ("http", "https") else "http"}
        await self._app({**scope, **seen, "headers": headers}, receive, send)


def peer_secret(secret: str) -> bytes:
    return hmac.digest(derive(secret, Purpose.PAGES), b"peer", "sha256").hex().encode()


@asynccontextmanager
async def portal_forwarding(config: Config, address: str | None) -> AsyncIterator[PortalForwarder | None]:
    """None where the group has no portal."""
    if address is None:
        yield None
        return
    forwarder = PortalForwarder(
        address,
        secret=config.secrets.jwt_secret,
        trusted_proxies=config.server.trusted_proxies,
        site=config.portal.name,
    )
    yield forwarder
    await forwarder.close()


@asynccontextmanager
async def portal_pages(config: Config, routes: Mapping[str, Route], *, public_url: str) -> AsyncIterator[Any]:
    """The portal as an application, which reads `routes` at each request and sends test calls to `public_url`."""
    from gateway.runtime.public_listener import account_parts
    from gateway.web.portal.app import build_portal

    async with (
        account_parts(config, routes, owner="portal") as parts,
        httpx.AsyncClient(base_url=public_url, timeout=TEST_CALL_SECONDS, trust_env=False) as client,
    ):
        app = build_portal(
            parts.dependencies,
            checkout_service=parts.checkout_service,
            settings=config.portal,
            client=client,
            recent_sign_in=timedelta(minutes=15),
        )
        yield PeerFilter(app, config.secrets.jwt_secret)


async def _read_body(receive: Receive) -> bytes | None:
    """None for one that is too large. Raises ClientDisconnected where the client leaves before it is whole."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnected
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)
