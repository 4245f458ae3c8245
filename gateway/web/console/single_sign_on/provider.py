"""An OpenID provider (OpenID Connect Core 1.0, authorization code with PKCE), by Authlib.

What the provider signed is believed, and only that: its keys and endpoints come from its discovery document, which must
name the issuer that is configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_urlsafe
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from gateway.clock import monotonic_seconds, now
from gateway.config.operation.console import CALLBACK_PATH, Oidc
from gateway.web.console.single_sign_on import Identity, SignInFailed, checked_name

SOURCE = "oidc"
ASK_SECONDS = 10.0
CLOCK_LEEWAY_SECONDS = 60
# How long ago a fresh sign-in may be by the provider's clock: the time that a form takes.
FRESH = timedelta(minutes=5)
# By a key of the provider's, never by a shared secret or none.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_KNOWN_SECONDS, _REFETCH_SECONDS = 600.0, 30.0
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a browser keeps between asking the provider and its answer."""

    state: str
    nonce: str
    verifier: str
    is_fresh: bool

    @classmethod
    def new(cls, *, is_fresh: bool) -> Attempt:
        return cls(token_urlsafe(24), token_urlsafe(24), token_urlsafe(48), is_fresh)


@dataclass(frozen=True, slots=True)
class _Known:
    metadata: Mapping[str, Any]
    keys: KeySet
    at: float


class OpenIdProvider:
    """`secret` None: the console is a public client, which PKCE protects alone."""

    def __init__(self, settings: Oidc, *, secret: str | None, client: httpx.AsyncClient) -> None:
        self._settings = settings
        self._secret = secret
        self._http = client
        self._known: _Known | None = None

    @property
    def issuer(self) -> str:
        return self._settings.issuer

    async def authorization_url(self, attempt: Attempt) -> str:
        """Where a browser asks the provider to sign in. Raises SignInFailed."""
        metadata = (await self._provider()).metadata
        more = {"prompt": "login", "max_age": "0"} if attempt.is_fresh else {}
        return str(
            prepare_grant_uri(
                metadata["authorization_endpoint"],
                self._settings.client_id,
                "code",
                redirect_uri=self._redirect_uri,
                scope=" ".join(("openid", *self._settings.scopes)),
                state=attempt.state,
                nonce=attempt.nonce,
                code_challenge=create_s256_code_challenge(attempt.verifier),
                code_challenge_method="S256",
                **more,
            )
        )

    async def redeem(self, code: str, attempt: Attempt) -> Identity:
        """Who signed in. Raises SignInFailed."""
        provider = await self._provider()
        token = await self._fetch_token(provider.metadata["token_endpoint"], code, attempt)
        claims = await self._verified(provider, token, attempt)
        return self._identity(await self._with_userinfo(provider, claims, token), is_fresh=attempt.is_fresh)

    @property
    def _redirect_uri(self) -> str:
        return self._settings.url + CALLBACK_PATH

    async def _fetch_token(self, endpoint: str, code: str, attempt: Attempt) -> Mapping[str, Any]:
        body = prepare_token_request(
            "authorization_code", redirect_uri=self._redirect_uri, code=code, code_verifier=attempt.verifier
        )
        method = "client_secret_basic" if self._secret else "none"
        fields = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        client = ClientAuth(self._settings.client_id, self._secret, method)
        url, headers, content = client.prepare("POST", endpoint, fields, body)
        try:
            response = await self._http.post(url, content=content, headers=headers, timeout=ASK_SECONDS)
            token = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise _unreachable(error) from error
        if not response.is_success or not isinstance(token, dict):
            reason = str(token.get("error", ""))[:100] if isinstance(token, dict) else ""
            _log.warning("sign_in_failed", kind=SOURCE, reason=reason, status=response.status_code)
            raise SignInFailed(f"The provider refused the sign-in: {reason or response.status_code}.")
        return token

    async def _verified(self, provider: _Known, token: Mapping[str, Any], attempt: Attempt) -> Mapping[str, Any]:
        """The claims of the ID token, if it is of this provider, for this console and this attempt, and good now."""
        written = token.get("id_token")
        if not isinstance(written, str):
            raise SignInFailed("The provider gave no ID token.")
        issuer, client_id = provider.metadata["issuer"], self._settings.client_id
        essential = {"iss": {"essential": True, "value": issuer}, "aud": {"essential": True, "value": client_id}}
        expected = {"nonce": attempt.nonce, "client_id": client_id, "access_token": token.get("access_token")}
        try:
            decoded = await self._decode(provider, written)
            claims = CodeIDToken(decoded.claims, decoded.header, options=essential, params=expected)
            claims.validate(now=int(now().timestamp()), leeway=CLOCK_LEEWAY_SECONDS)
        except (JoseError, ValueError, TypeError, AttributeError) as error:  # the last two by claims of another type
            _log.warning("sign_in_failed", kind=SOURCE, reason=repr(error))
            raise SignInFailed("What the provider signed does not hold; the log says why.") from error
        return dict(claims)

    async def _decode(self, provider: _Known, written: str) -> jwt.Token:
        """By the keys that are known, and once by fresh ones: providers rotate them. Raises JoseError, ValueError."""
        try:
            return jwt.decode(written, provider.keys, algorithms=ALGORITHMS)
        except (JoseError, ValueError):
            if monotonic_seconds() - provider.at < _REFETCH_SECONDS:
                raise
        self._known = None
        return jwt.decode(written, (await self._provider()).keys, algorithms=ALGORITHMS)

    async def _with_userinfo(
        self, provider: _Known, claims: Mapping[str, Any], token: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """With what the ID token leaves out, if the provider tells it of the same subject."""
        endpoint, access_token = provider.metadata.get("userinfo_endpoint"), token.get("access_token")
        wanted = (self._settings.user_claim, self._settings.groups_claim)
        if all(name in claims for name in wanted) or not isinstance(endpoint, str) or not access_token:
            return claims
        found = await self._get(endpoint, headers={"authorization": f"Bearer {access_token}"})
        return {**found, **claims} if found.get("sub") == claims["sub"] else claims

    def _identity(self, claims: Mapping[str, Any], *, is_fresh: bool) -> Identity:
        settings = self._settings
        name = checked_name(claims.get(settings.user_claim))
        if name is None:
            raise SignInFailed(f"The provider does not say who you are: it gave no `{settings.user_claim}`.")
        if settings.user_claim == "email" and claims.get("email_verified") in (
            False,
            "false",
        ):  # some providers write it as text
            raise SignInFailed("Your address is not verified at the provider.")
        listed = claims.get(settings.groups_claim)
        groups = frozenset(each for each in (listed if isinstance(listed, list) else [listed]) if isinstance(each, str))
        return Identity(SOURCE, name, groups, _proven_at(claims, is_fresh=is_fresh))

    async def _provider(self) -> _Known:
        """Its discovery document and keys, for some minutes. Raises SignInFailed."""
        if self._known is None or monotonic_seconds() - self._known.at > _KNOWN_SECONDS:
            metadata = await self._get(f"{self._settings.issuer}/.well-known/openid-configuration")
            self._check(metadata)
            try:
                keys = KeySet.import_key_set(await self._get(metadata["jwks_uri"]))  # type: ignore[arg-type]
            except (JoseError, ValueError, KeyError) as error:
                raise _unreachable(error) from error
            self._known = _Known(metadata, keys, monotonic_seconds())
        return self._known

    def _check(self, metadata: Mapping[str, Any]) -> None:
        """Raises SignInFailed for a document of another issuer, or whose endpoints are less safe than it."""
        if str(metadata.get("issuer")).rstrip("/") != self._settings.issuer:
            raise SignInFailed("The provider's document names another issuer than `console.oidc.issuer`.")
        is_secure = self._settings.issuer.startswith("https:")
        for name in _ENDPOINTS:
            scheme = urlsplit(str(metadata.get(name))).scheme
            if scheme not in ("https",) if is_secure else scheme not in ("http", "https"):
                raise SignInFailed(f"The provider's document has no `{name}` by https.")

    async def _get(self, url: str, *, headers: Mapping[str, str] | None = None) -> Mapping[str, Any]:
        try:
            response = await self._http.get(url, headers=headers, timeout=ASK_SECONDS, follow_redirects=False)
            found = response.raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise _unreachable(error) from error
        if not isinstance(found, dict):
            raise _unreachable(ValueError(f"{url} is no object"))
        return found


def _proven_at(claims: Mapping[str, Any], *, is_fresh: bool) -> datetime | None:
    """When the provider last asked who it is. Raises SignInFailed where it was to ask now, and does not say so."""
    try:
        found = min(datetime.fromtimestamp(claims.get("auth_time", "never"), UTC), now())
    except (TypeError, ValueError, OverflowError, OSError):
        found = None
    if is_fresh and (found is None or now() - found > FRESH):
        raise SignInFailed("The provider was to ask you who you are, and did not.")
    return found


def _unreachable(error: Exception) -> SignInFailed:
    _log.warning("sign_in_failed", kind=SOURCE, reason=repr(error))
    return SignInFailed("The provider does not answer as it should; try again, or sign in with an admin token.")
