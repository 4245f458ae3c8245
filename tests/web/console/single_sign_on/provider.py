"""An OpenID provider on the loopback that can be made to answer wrongly (OpenID Connect Core 1.0, RFC 7636, 9207)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from secrets import token_urlsafe
from typing import Any
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from gateway.clock import now

CLIENT_ID, SECRET = "gateway-console", "a secret of the client: 100 %"
Claims = dict[str, Any]


def _same(claims: Claims) -> Claims:
    return claims


@dataclass
class Provider:
    """`person` are the claims of who sits before the browser; `alter` changes an ID token, `sign` writes it."""

    issuer: str
    person: Claims = field(default_factory=lambda: {"sub": "1", "email": "ada@example.com", "groups": ["support"]})
    alter: Callable[[Claims], Claims] = _same
    metadata: Claims = field(default_factory=dict)
    userinfo: Claims = field(default_factory=dict)
    token_status: int = 200
    key: ECKey | RSAKey = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "one"}))
    algorithm: str = "ES256"
    sign: Callable[[Claims], str] | None = None
    published: list[ECKey | RSAKey] = field(default_factory=list)
    auth_age_seconds: int | None = 0
    codes: dict[str, Mapping[str, str]] = field(default_factory=dict)
    redeemed: list[str] = field(default_factory=list)
    asked: list[Mapping[str, str]] = field(default_factory=list)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._configuration),
                Route("/keys", self._keys),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
                Route("/userinfo", self._userinfo),
            ]
        )

    async def _configuration(self, _: Request) -> Response:
        found = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
        }
        return JSONResponse({**found, **self.metadata})

    async def _keys(self, _: Request) -> Response:
        shown: list[Any] = [*(self.published or [self.key])]
        return JSONResponse(KeySet(shown).as_dict(private=False))

    async def _authorize(self, request: Request) -> Response:
        """Whoever asks is signed in at once."""
        asked = dict(request.query_params)
        assert (asked["response_type"], asked["client_id"], asked["code_challenge_method"]) == (
            "code",
            CLIENT_ID,
            "S256",
        )
        assert "openid" in asked["scope"].split()
        self.asked.append(asked)
        code = token_urlsafe(12)
        self.codes[code] = asked
        answer = {"code": code, "state": asked["state"], "iss": self.issuer}
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer)}", 302)

    async def _token(self, request: Request) -> Response:
        form = await request.form()
        code, verifier = str(form["code"]), str(form.get("code_verifier", ""))
        asked = self.codes.pop(code, None)
        digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        if asked is None or digest != asked["code_challenge"] or form["redirect_uri"] != asked["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        if not self._is_client(request):
            return JSONResponse({"error": "invalid_client"}, 401)
        if self.token_status != 200:
            return Response("not now", self.token_status)
        self.redeemed.append(code)
        access_token = token_urlsafe(8)
        token = {"access_token": access_token, "token_type": "Bearer", "expires_in": 60}
        return JSONResponse({**token, "id_token": self._id_token(asked, access_token)})

    async def _userinfo(self, request: Request) -> Response:
        assert request.headers["authorization"].startswith("Bearer ")
        return JSONResponse(self.userinfo)

    def _is_client(self, request: Request) -> bool:
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        return scheme == "Basic" and base64.b64decode(sent).decode() == f"{CLIENT_ID}:{SECRET}"

    def _id_token(self, asked: Mapping[str, str], access_token: str) -> str:
        at = int(now().timestamp())
        half = hashlib.sha256(access_token.encode()).digest()[:16]
        claims = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "iat": at,
            "exp": at + 300,
            "nonce": asked["nonce"],
            "at_hash": base64.urlsafe_b64encode(half).decode().rstrip("="),
            **({} if self.auth_age_seconds is None else {"auth_time": at - self.auth_age_seconds}),
            **self.person,
        }
        header = {"alg": self.algorithm, **({"kid": self.key.kid} if self.key.kid else {})}
        if self.sign is not None:
            return self.sign(self.alter(claims))
        return jwt.encode(header, self.alter(claims), self.key, algorithms=[self.algorithm])
