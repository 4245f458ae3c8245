"""Whom a request to the admin listener may be addressed to.

A page of any website can point a name of its own at 127.0.0.1 and read what answers there as its own origin (DNS
rebinding). It can forge neither the Host field nor an address as the host, so names are checked and addresses are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api import error_responses
from policies.model import Refusal, Refused
from policies.wording import shortened

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/@\s]*)(:[0-9]*)?", re.ASCII)
_MAX_CHARACTERS = 100


class HostMiddleware:
    """Refuses requests for other hosts than `names`, addresses, `localhost` and names without a dot.

    Nobody can register a name without a dot, and services find each other by such names in containers.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        self._names = frozenset(name.lower().rstrip(".") for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"host"]
        refused = next((host for host in hosts if not self._is_allowed(host)), None)
        if scope["type"] != "http" or refused is None:
            await self._app(scope, receive, send)
            return
        name = shortened(refused, _MAX_CHARACTERS)
        detail = f"The admin listener is not known as {name!r}; an operator can list it in server.admin_hosts."
        error = Refused(Refusal.BAD_REQUEST, detail)
        await error_responses.of_exception(error, Request(scope))(scope, receive, send)

    def _is_allowed(self, host: str) -> bool:
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found[1].rstrip(".")
        return "." not in name or name in self._names or name.endswith(".localhost") or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
