"""What the client is told besides the upstream's answer: ids, limits, credits, and problems in place of an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any

from gateway.meter.meter import Admission
from gateway.problems import problem, render
from gateway.proxy.departures import Client
from gateway.proxy.principals import Caller
from gateway.upstream.tunnel import Wire
from policies.limits import remaining as remaining_of_limits
from policies.model import Refused

Send = Callable[[Any], Awaitable[None]]
Header = tuple[bytes, bytes]

# The upstream's word to the gateway, what only the gateway may say of limits and credits, and what the upstream says to
# its next hop, which is us.
_DROPPED = frozenset(
    {
        b"gateway-credits",
        b"gateway-tokens",
        b"gateway-cost-usd",
        b"ratelimit",
        b"ratelimit-policy",
        b"ratelimit-limit",
        b"ratelimit-remaining",
        b"ratelimit-reset",
        b"x-credits-remaining",
        b"x-credits-charged",
        b"x-request-id",
        b"proxy-authenticate",
        b"proxy-authentication-info",
    }
)


class Reply:
    """One response to one client, under one request id."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.request_id = request_id
        self.status = 0
        self._send = send

    async def start(self, status: int, upstream_headers: Sequence[Header], ours: list[Header]) -> None:
        headers = self._headers(upstream_headers, ours)
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, chunk: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    def switch(
        self, client: Client, protocol: bytes, *, upstream_headers: Sequence[Header], ours: list[Header]
    ) -> Wire:
        """Answers 101, and gives the connection of the client."""
        wire = client.upgrade(protocol, self._headers(upstream_headers, ours))
        self.status = HTTPStatus.SWITCHING_PROTOCOLS
        return wire

    async def problem(self, refused: Refused, ours: list[Header]) -> None:
        answer = render(refused, self.request_id)
        await self.start(answer.status, answer.headers, ours)
        await self.end(answer.body)

    async def fault(self, client: Client) -> None:
        """Says that the gateway failed, as far as it can still be said."""
        if self.status:
            client.abort()
            return
        answer = problem("internal_error", "The gateway failed; this call is not charged.", request_id=self.request_id)
        await self.start(answer.status, answer.headers, [])
        await self.end(answer.body)

    def _headers(self, upstream_headers: Sequence[Header], ours: list[Header]) -> list[Header]:
        headers = [header for header in upstream_headers if header[0] not in _DROPPED]
        headers.append((b"x-request-id", self.request_id.encode()))
        headers += ours
        return headers


def metering_headers(caller: Caller, admission: Admission, *, remaining: int, charged: int | None) -> list[Header]:
    """RateLimit-Policy, RateLimit, X-Credits-Remaining, and X-Credits-Charged where it is known."""
    headers = [(b"x-credits-remaining", b"%d" % remaining)]
    if caller.policy_field:
        left = remaining_of_limits(caller.limits, admission.used, admission.reset_seconds)
        headers += ((b"ratelimit-policy", caller.policy_field), (b"ratelimit", caller.remaining_template % left))
    if charged is not None:
        headers.append((b"x-credits-charged", b"%d" % charged))
    return headers
