"""Lines of the access log with the fields that the operator has chosen.

The default line does not come from here: `AccessLog.record` writes it in a microsecond, this takes several.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from json import JSONEncoder, dumps
from random import random
from time import time

from gateway.proxy.admission.caller import Caller
from gateway.proxy.request.inbound import Inbound
from gateway.proxy.settle.active_call import ActiveCall
from gateway.proxy.telemetry.access_log import AccessLog
from policies.model import Outcome, Route

Value = str | int | float | None

_SUCCESSES = frozenset({Outcome.SUCCEEDED, "repeated", "served"})
_encode = JSONEncoder(separators=(",", ":")).encode  # `dumps` makes an encoder for each call
# What logfmt readers take as it is; anything else is quoted, with escapes.
_BARE = re.compile(r"[!#-<>-\[\]-~]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What is known of a request that has ended. `caller`, `route` and `call` are None before they are found."""

    request_id: str
    endpoint: str
    method: str
    status: int
    code: str
    seconds: float
    inbound: Inbound
    upstream_seconds: float | None = None
    credits: int | None = None
    caller: Caller | None = None
    route: Route | None = None
    call: ActiveCall | None = None


class RequestLines:
    """Writes the lines of requests to an access log. `successes` is the share of successful ones that have a line."""

    def __init__(self, access_log: AccessLog, fields: Iterable[str], *, form: str, successes: float) -> None:
        self._access_log = access_log
        self._values = tuple((name, VALUES[name]) for name in fields)
        self._render = _json_line if form == "json" else _logfmt_line
        self._successes = successes

    def record(self, facts: RequestFacts) -> None:
        if self._successes < 1 and facts.code in _SUCCESSES and random() >= self._successes:  # noqa: S311 - a sample
            return
        self._access_log.write(self._render([("event", "request"), *((name, of(facts)) for name, of in self._values)]))


class NoRequestLines:
    """For a level at which requests have no lines."""

    def record(self, facts: RequestFacts) -> None: ...


def _key(facts: RequestFacts) -> Value:
    if facts.caller is None:
        return ""
    return facts.caller.principal.key.masked


def _plan(facts: RequestFacts) -> Value:
    subscription = None if facts.caller is None else facts.caller.principal.account.subscription
    return None if subscription is None else subscription.plan.name


def _path(facts: RequestFacts) -> Value:
    """None where no route has it: such a path may hold anything."""
    return None if facts.route is None else facts.inbound.raw_path.decode("latin-1")


VALUES: dict[str, Callable[[RequestFacts], Value]] = {
    "at": lambda facts: round(time(), 3),  # noqa: ARG005 - as the others
    "timestamp": lambda facts: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",  # noqa: ARG005 - as the others
    "level": lambda facts: "info",  # noqa: ARG005 - as the others
    "request_id": lambda facts: facts.request_id,
    "endpoint": lambda facts: facts.endpoint,
    "method": lambda facts: facts.method,
    "status": lambda facts: facts.status,
    "code": lambda facts: facts.code,
    "ms": lambda facts: round(facts.seconds * 1000, 2),
    "upstream_ms": lambda facts: None if facts.upstream_seconds is None else round(facts.upstream_seconds * 1000, 2),
    "credits": lambda facts: facts.credits,
    "key": _key,
    "client": lambda facts: facts.inbound.client_ip,
    "path": _path,
    "user_id": lambda facts: None if facts.caller is None else str(facts.caller.account_id),
    "key_id": lambda facts: None if facts.caller is None else str(facts.caller.key_id),
    "plan": _plan,
    "upstream": lambda facts: None if facts.route is None else facts.route.upstream,
    "request_bytes": lambda facts: None if facts.call is None else facts.call.request_bytes,
    "response_bytes": lambda facts: None if facts.call is None else facts.call.response_bytes,
}


def _json_line(pairs: list[tuple[str, Value]]) -> str:
    return f"{_encode(dict(pairs))}\n"


def _logfmt_line(pairs: list[tuple[str, Value]]) -> str:
    """Fields without a value are left out."""
    return " ".join(f"{name}={_logfmt(value)}" for name, value in pairs if value is not None) + "\n"


def _logfmt(value: str | float) -> str:
    written = str(value)
    return written if _BARE.fullmatch(written) else dumps(written)
