"""Each kind of request that anybody can make, by its name: how the next one is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from itertools import count, cycle
from secrets import token_bytes
from uuid import UUID, uuid4

from gateway.api.account.login.access_tokens import AccessTokens
from gateway.clock import now
from policies.access.keys import ENTROPY_BYTES, compose
from policies.access.tokens import REFRESH_BYTES, refresh_token

Make = Callable[[], bytes]

GOOD = "a good call"
JWT_SECRET = "j" * 32
_JSON = "content-type: application/json"
_ADMIN = "localhost"
_numbers = count(1)

# Operations of the account API that need a session, by method.
_CLOSED = (
    "GET /me",
    "GET /me/keys",
    "GET /me/usage",
    "GET /me/limits",
    "GET /me/history",
    "PATCH /me",
    "POST /me/keys",
    "GET /subscriptions",
    f"DELETE /me/keys/{UUID(int=1)}",
)
_LOGIN_PATHS = ("register", "login", "refresh", "logout", "forgot-password", "reset-password", "verify-email")
_OPEN_PATHS = (*(f"/auth/{name}" for name in _LOGIN_PATHS), "/plans", "/docs", "/openapi.json", "/me", "/me/keys")


def written(line: str, *fields: str, body: str = "", host: str = "gateway.test") -> bytes:
    length = [f"content-length: {len(body)}"] if body else []
    return "\r\n".join((f"{line} HTTP/1.1", f"host: {host}", *fields, *length, "", body)).encode()


def public(key: str) -> dict[str, Make]:
    """Those of the public listener; the good call, by an API key, first."""
    big = [f"x-big-{number}: {'b' * 1000}" for number in range(29)]
    preflight = ("origin: https://app.example.com", "access-control-request-method: POST")
    return {
        GOOD: _same(written("GET /call", f"x-api-key: {key}")),
        "no route": _same(written("GET /nothing")),
        "wrong method of a route": _same(written("DELETE /call")),
        "no key": _same(written("GET /call")),
        "no key, 29 KiB of fields": _same(written("GET /call", *big)),
        "malformed key": _same(written("GET /call", "x-api-key: gw_live_malformed")),
        "unknown key": lambda: written("GET /call", _unknown_key()),
        "unknown key, each from elsewhere": lambda: written("GET /call", _unknown_key(), _elsewhere()),
        "preflight of an origin that is let in": _same(written("OPTIONS /call", *preflight)),
        "preflight of another": _same(written("OPTIONS /plans", "origin: https://evil.example", preflight[1])),
        "malformed head": _same(b"GET /call HTTP/1.1\r\nhost: a b\r\n\r\n"),
    }


def account(over: str) -> dict[str, Make]:
    """Those of the account API. `over` is the access token of a session that has ended."""
    documents = ("/plans", "/openapi.json", "/docs", "/problems", "/problems/not_found")
    expired = AccessTokens(JWT_SECRET, lifetime=timedelta(hours=-1)).issue(uuid4(), uuid4())
    forged = AccessTokens("another secret", lifetime=timedelta(hours=1)).issue(uuid4(), uuid4())
    # As long as may be, and as long as is parsed whatever it is.
    unknown_fields, fewer_fields = (json.dumps({f"{number:x}": 0 for number in range(most)}) for most in (1_500, 430))
    return {
        **{path: _same(written(f"GET {path}")) for path in documents},
        "unknown path": _same(written("GET /me/nothing/at/all")),
        "/problems of an unknown code": _same(written("GET /problems/none")),
        "wrong method, each path": _in_turn([written(f"TRACE {path}") for path in _OPEN_PATHS]),
        "no token, each operation": _in_turn([written(line) for line in _CLOSED]),
        "forged token": _in_turn([written(line, f"authorization: Bearer {forged}") for line in _CLOSED]),
        "expired token": _in_turn([written(line, f"authorization: Bearer {expired}") for line in _CLOSED]),
        "session that is over": _same(written("GET /me", f"authorization: Bearer {over}")),
        "/me/limits, unknown key": lambda: written("GET /me/limits", _unknown_key()),
        "/me/limits, unknown key, each from elsewhere": lambda: written("GET /me/limits", _unknown_key(), _elsewhere()),
        "wrong fields, each path": _in_turn([_posted(path, '{"email": 1}') for path in _LOGIN_PATHS]),
        "no JSON, each path": _in_turn([_posted(path, '{"email"') for path in _LOGIN_PATHS]),
        "wrong content type, each path": _in_turn(
            [written(f"POST /auth/{path}", "content-type: text/plain", body="{}") for path in _LOGIN_PATHS]
        ),
        "15 KiB of unknown fields": _same(_posted("login", unknown_fields)),
        "4 KiB of unknown fields": _same(_posted("login", fewer_fields)),
        "body above the limit": _same(_posted("login", " " * 20_000)),
        **_logins(),
        **_webhooks(),
    }


def _logins() -> dict[str, Make]:
    """What asks PostgreSQL before it is refused: by one address, and each by another."""
    wrong = {"email": "nobody@example.com", "password": "a wrong password"}
    junk = "a" * 43
    bodies: Mapping[str, Callable[[], Mapping[str, str]]] = {
        "login": lambda: wrong,
        "forgot-password": lambda: {"email": wrong["email"]},
        "refresh": lambda: {"refresh_token": refresh_token(token_bytes(REFRESH_BYTES))},
        "logout": lambda: {"refresh_token": refresh_token(token_bytes(REFRESH_BYTES))},
        "verify-email": lambda: {"token": junk},
        "reset-password": lambda: {"token": junk, "password": "correct horse battery staple"},
    }
    made: dict[str, Make] = {}
    for path, body in bodies.items():
        made[f"refused {path}"] = lambda path=path, body=body: _posted(path, json.dumps(body()))  # type: ignore[misc] # mypy sees no default
        if path != "login":
            made[f"refused {path}, each from elsewhere"] = lambda path=path, body=body: _posted(  # type: ignore[misc] # mypy sees no default
                path, json.dumps(body()), _elsewhere()
            )
    common = json.dumps({"email": wrong["email"], "password": "iloveyou2"})
    made["logout without a token, each from elsewhere"] = lambda: _posted("logout", "{}", _elsewhere())
    made["common password, each from elsewhere"] = lambda: _posted("register", common, _elsewhere())
    made["throttled account, each from elsewhere"] = lambda: _posted("login", json.dumps(wrong), _elsewhere())
    return made


def _webhooks() -> dict[str, Make]:
    signature = f"stripe-signature: t={int(now().timestamp())},v1={'0' * 64}"
    event = json.dumps({"id": "evt_1", "type": "invoice.paid", "data": {"object": {}}})
    return {
        "webhook without a signature": _same(written("POST /webhooks/stripe", _JSON, body=event)),
        "webhook, wrong signature": _same(written("POST /webhooks/stripe", _JSON, signature, body=event)),
        "webhook of a provider that is not set up": _same(written("POST /webhooks/lemon-squeezy", _JSON, body=event)),
        "webhook of nobody": _same(written("POST /webhooks/nobody", _JSON, body=event)),
    }


def admin() -> dict[str, Make]:
    """Those of the admin listener."""

    def unknown() -> str:
        return f"authorization: Bearer {compose('gwadm', token_bytes(ENTROPY_BYTES)).secret}"

    return {
        "admin: no token": _same(written("GET /admin/v1/users", host=_ADMIN)),
        "admin: malformed token": _same(written("GET /admin/v1/users", "authorization: Bearer junk", host=_ADMIN)),
        "admin: unknown token": lambda: written("GET /admin/v1/users", unknown(), host=_ADMIN),
        "admin: wrong Host": _same(written("GET /admin/v1/users", host="evil.example")),
        "admin: unknown path": _same(written("GET /nothing", host=_ADMIN)),
        "admin: body without a token": _same(written("POST /admin/v1/users", _JSON, body='{"email": 1}', host=_ADMIN)),
    }


def _same(request: bytes) -> Make:
    return lambda: request


def _in_turn(requests: Sequence[bytes]) -> Make:
    return cycle(requests).__next__


def _posted(path: str, body: str, *fields: str) -> bytes:
    return written(f"POST /auth/{path}", _JSON, *fields, body=body)


def _unknown_key() -> str:
    return f"x-api-key: {compose('gw', token_bytes(ENTROPY_BYTES)).secret}"


def _elsewhere() -> str:
    """Another address each time, each of another /24, as a trusted proxy tells it."""
    number = next(_numbers)
    return f"x-forwarded-for: {20 + number // 65536 % 200}.{number // 256 % 256}.{number % 256}.7"
