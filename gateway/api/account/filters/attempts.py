"""Paces what strangers make the account API look up, mail and hash, before a query counts it in PostgreSQL.

What succeeds costs its address nothing, so this holds back those alone who are refused again and again. The throttles
of accounts, which all processes share, come after it (`gateway/api/account/login/throttling.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api import error_responses
from gateway.paced_subjects import PacedSubjects
from policies.access.throttling import ATTEMPTS_FROM_ADDRESS, ATTEMPTS_FROM_NETWORK, neighbourhood, network


def is_attempt(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.startswith("/auth/")


async def _refuse(scope: Scope, _: Receive, send: Send) -> None:
    await error_responses.send(error_responses.TOO_MANY_ATTEMPTS, scope, send)


class AttemptFilter:
    """Answers 429 to an address, or a network, of which too many attempts were refused lately.

    `is_attempt` says of a request whether it is one, and `refuse` answers it.
    """

    def __init__(
        self, app: ASGIApp, *, is_attempt: Callable[[Scope], bool] = is_attempt, refuse: ASGIApp = _refuse
    ) -> None:
        self._app = app
        self._is_attempt = is_attempt
        self._refuse = refuse
        self._addresses = PacedSubjects(ATTEMPTS_FROM_ADDRESS)
        self._networks = PacedSubjects(ATTEMPTS_FROM_NETWORK)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._is_attempt(scope):
            await self._app(scope, receive, send)
            return
        host = (scope.get("client") or ("",))[0]
        address, whole = neighbourhood(host), network(host)
        if not (self._networks.is_free(whole) and self._addresses.take(address)):
            await self._refuse(scope, receive, send)
            return
        self._networks.take(whole)

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self._addresses.give_back(address)
                self._networks.give_back(whole)
            await send(message)

        await self._app(scope, receive, send_counted)
