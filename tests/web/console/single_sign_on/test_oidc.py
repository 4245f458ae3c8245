"""Operators sign in by an OpenID provider: with what it signed for this console, this browser and this moment alone."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import ECKey, RSAKey

from gateway.api.admin import AdminApi
from gateway.clock import now
from gateway.config.operation.console import Console
from gateway.web.console.app import build_console
from gateway.web.console.single_sign_on import provider as oidc
from gateway.web.console.single_sign_on.provider import OpenIdProvider
from gateway.web.cookies import CookieSigner
from tests.api.conftest import TOKEN
from tests.web.console.operators import Api, Browser
from tests.web.console.single_sign_on.conftest import browser_of
from tests.web.console.single_sign_on.provider import SECRET, Provider


async def asked(operator: Browser, **params: str) -> str:
    """The provider's page that the console leads to."""
    answer = await operator.client.get("/console/oidc", params=params)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


async def answered(url: str) -> str:
    """Where the provider leads back to, as a path of the console."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(url)
    back = urlsplit(answer.headers["location"])
    return f"{back.path}?{back.query}"


async def sign_in(operator: Browser, **params: str) -> httpx.Response:
    return await operator.client.get(await answered(await asked(operator, **params)))


async def test_operator_has_the_scopes_of_its_groups(operator: Browser, api: Api) -> None:
    done = await sign_in(operator, next="/console/plans?x=1")
    assert (done.status_code, done.headers["location"]) == (303, "/console/plans?x=1")
    assert "oidc:ada@example.com" in await operator.get("/plans")
    user = await api.create_user()
    path = f"/accounts/{user['id']}"
    await operator.submit(path, f"{path}/credits", amount="5", reason="goodwill", once="once-1")
    await operator.submit(path, f"{path}/suspend", reason="no scope for it", status=403)
    (entry,) = (await api.get("/audit-log", entity_id=user["id"], action="credits.grant"))["data"]
    assert entry["actor"] == "oidc:ada@example.com"


async def test_head_of_the_way_back_neither_signs_in_nor_uses_it_up(operator: Browser) -> None:
    back = await answered(await asked(operator))
    looked = await operator.client.head(back)
    assert (looked.status_code, looked.headers.get_list("set-cookie")) == (303, [])
    done = await operator.client.get(back)
    assert (done.status_code, done.headers["location"]) == (303, "/console")
    await operator.get("/plans")


async def test_session_ends_by_signing_out_or_in_again_for_its_copies_too(operator: Browser) -> None:
    await sign_in(operator)
    first = dict(operator.client.cookies)
    await sign_in(operator, again="1")
    second = dict(operator.client.cookies)
    await operator.submit("/plans", "/sign-out")
    for copied in (first, second):
        operator.client.cookies.clear()
        operator.client.cookies.update(copied)
        await operator.get("/plans", status=303)
    await sign_in(operator)
    await operator.get("/plans")


async def test_group_of_all_scopes_does_everything(operator: Browser, provider: Provider) -> None:
    provider.person["groups"] = ["admins", "unknown"]
    await sign_in(operator)
    assert "Make a token" in await operator.get("/tokens")


async def test_public_client_is_protected_by_pkce_alone(
    admin: AdminApi, settings: Console, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "_is_client", lambda request: "authorization" not in request.headers)
    assert settings.oidc is not None
    async with httpx.AsyncClient(trust_env=False) as client:
        public = OpenIdProvider(settings.oidc, secret=None, client=client)
        async with browser_of(build_console(admin, secret=TOKEN, settings=settings, provider=public)) as found:
            assert (await sign_in(Browser(found))).status_code == 303


async def test_rsa_key_and_key_that_has_been_rotated_are_known(
    operator: Browser, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await sign_in(operator)).status_code == 303
    provider.key, provider.algorithm = RSAKey.generate_key(2048, {"kid": "two"}), "RS256"
    assert (await sign_in(operator)).status_code == 403, "keys are not fetched for each token that does not hold"
    monkeypatch.setattr(oidc, "_REFETCH_SECONDS", 0.0)
    assert (await sign_in(operator)).status_code == 303


WRONG_CLAIMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "another nonce": lambda claims: {**claims, "nonce": "stolen"},
    "no nonce": lambda claims: without(claims, "nonce"),
    "another issuer": lambda claims: {**claims, "iss": "https://evil.example"},
    "no issuer": lambda claims: without(claims, "iss"),
    "another audience": lambda claims: {**claims, "aud": "another-app"},
    "several audiences, for another party": lambda claims: {**claims, "aud": [claims["aud"], "x"], "azp": "x"},
    "no audience": lambda claims: without(claims, "aud"),
    "expired": lambda claims: {**claims, "exp": claims["iat"] - 120},
    "no end": lambda claims: without(claims, "exp"),
    "issued by a clock that is ahead": lambda claims: {**claims, "iat": claims["iat"] + 600},
    "not yet good": lambda claims: {**claims, "nbf": claims["iat"] + 600},
    "no subject": lambda claims: without(claims, "sub"),
    "of another access token": lambda claims: {**claims, "at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
    "a hash that is a number": lambda claims: {**claims, "at_hash": 5},
    "several parties": lambda claims: {**claims, "azp": ["x", 5]},
    "an end that is no time": lambda claims: {**claims, "exp": "soon"},
    "no name": lambda claims: without(claims, "email"),
    "a name that is none": lambda claims: {**claims, "email": ["ada@example.com"]},
    "a name of several lines": lambda claims: {**claims, "email": "ada\nadmin"},
    "an address that is not verified": lambda claims: {**claims, "email_verified": False},
    "an address that is not verified, as text": lambda claims: {**claims, "email_verified": "false"},
    "no group": lambda claims: without(claims, "groups"),
    "groups that mean nothing here": lambda claims: {**claims, "groups": ["sales", "*", "all"]},
    "groups of another form": lambda claims: {**claims, "groups": {"support": True}},
}


def without(claims: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in claims.items() if key != name}


@pytest.mark.parametrize("wrong", WRONG_CLAIMS)
async def test_token_that_does_not_hold_signs_nobody_in(operator: Browser, provider: Provider, wrong: str) -> None:
    provider.alter = WRONG_CLAIMS[wrong]
    assert_refused(await sign_in(operator))
    await operator.get("", status=303)


async def test_clock_that_is_a_little_off_is_forgiven(operator: Browser, provider: Provider) -> None:
    provider.alter = lambda claims: {**claims, "iat": claims["iat"] + 30, "exp": claims["iat"] - 30}
    assert (await sign_in(operator)).status_code == 303


async def test_token_that_others_signed_signs_nobody_in(operator: Browser, provider: Provider) -> None:
    published = provider.key
    assert isinstance(published, ECKey)
    provider.published = [published]
    provider.key = ECKey.generate_key("P-256", {"kid": str(published.kid)})
    assert_refused(await sign_in(operator))
    # The key that everybody knows, as the secret of a symmetric signature (RFC 8725 section 2.1); and no signature.
    known = published.as_pem(private=False)
    provider.sign = lambda claims: unsafe("HS256", claims, lambda text: hmac.digest(known, text, "sha256"))
    assert_refused(await sign_in(operator))
    provider.sign = lambda claims: unsafe("none", claims, lambda _: b"")
    assert_refused(await sign_in(operator))


def unsafe(algorithm: str, claims: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    parts = [urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in ({"alg": algorithm}, claims)]
    text = b".".join(parts)
    return (text + b"." + urlsafe_b64encode(sign(text)).rstrip(b"=")).decode()


async def test_sign_in_belongs_to_the_browser_that_began_it(operator: Browser, provider: Provider) -> None:
    back = await answered(await asked(operator))
    kept = dict(operator.client.cookies)
    operator.client.cookies.clear()
    assert_refused(await operator.client.get(back))
    assert provider.redeemed == [], "a code that came from elsewhere is not even asked about"
    for name, value in kept.items():
        operator.client.cookies.set(name, value, domain="console.local")
    assert (await operator.client.get(back)).status_code == 303


@pytest.mark.parametrize(
    "change",
    [{"state": "guessed"}, {"state": ""}, {"code": ""}, {"code": "guessed"}, {"iss": "https://evil.example"}],
)
async def test_answer_that_was_changed_on_its_way_is_refused(operator: Browser, change: dict[str, str]) -> None:
    back = urlsplit(await answered(await asked(operator)))
    params = {name: values[0] for name, values in parse_qs(back.query).items()} | change
    assert_refused(await operator.client.get(back.path, params=params))
    await operator.get("", status=303)


async def test_answer_is_good_once(operator: Browser) -> None:
    back = await answered(await asked(operator))
    assert (await operator.client.get(back)).status_code == 303
    assert_refused(await operator.client.get(back))


async def test_refusal_of_the_provider_is_shown_as_text(operator: Browser) -> None:
    state = parse_qs(urlsplit(await asked(operator)).query)["state"][0]
    refused = await operator.client.get(
        "/console/oidc/callback", params={"state": state, "error": "<script>access_denied"}
    )
    assert_refused(refused)
    assert "&lt;script&gt;access_denied" in refused.text


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"token_endpoint": None},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": "file:///etc/passwd"},
    ],
)
async def test_document_of_another_provider_is_not_followed(
    operator: Browser, provider: Provider, metadata: dict[str, Any]
) -> None:
    provider.metadata = metadata
    assert_refused(await operator.client.get("/console/oidc"))


async def test_provider_that_fails_leaves_the_token_form(operator: Browser, provider: Provider) -> None:
    provider.token_status = 503
    refused = await sign_in(operator)
    assert_refused(refused)
    assert 'name="token"' in refused.text
    provider.token_status = 200
    assert (await sign_in(operator)).status_code == 303


async def test_claims_that_the_token_lacks_come_from_userinfo_of_the_same_subject(
    operator: Browser, provider: Provider
) -> None:
    provider.person = {"sub": "1"}
    provider.userinfo = {"sub": "2", "email": "eve@example.com", "groups": ["admins"]}
    assert_refused(await sign_in(operator))
    provider.userinfo = {"sub": "1", "email": "ada@example.com", "groups": ["support"], "iss": "https://evil.example"}
    assert (await sign_in(operator)).status_code == 303
    assert "oidc:ada@example.com" in await operator.get("/plans")


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "/portal"])
async def test_sign_in_leads_nowhere_else(operator: Browser, target: str) -> None:
    assert (await sign_in(operator, next=target)).headers["location"] == "/console"


async def test_what_is_for_good_has_the_provider_ask_again(operator: Browser, provider: Provider, api: Api) -> None:
    provider.person["groups"], provider.auth_age_seconds = ["admins"], 3600
    user = await api.create_user()
    key = await api.post("/keys", {"user_id": user["id"]})
    await sign_in(operator)
    page = f"/accounts/{user['id']}"
    fields = {"form_token": await operator.form_token(page), "reason": "lost"}
    headers = {"referer": f"https://console/console{page}"}
    revoke = f"/console{page}/keys/{key['id']}/revoke"
    refused = await operator.client.post(revoke, data=fields, headers=headers)
    assert refused.status_code == 422
    assert f'href="/console/oidc?again=1&amp;next=/console{page}"' in refused.text
    assert 'name="token"' not in refused.text
    assert (await api.get(f"/keys/{key['id']}"))["status"] == "active"

    assert_refused(await sign_in(operator, again="1"))  # it did not ask
    assert (provider.asked[-1]["prompt"], provider.asked[-1]["max_age"]) == ("login", "0")
    provider.auth_age_seconds = None
    assert_refused(await sign_in(operator, again="1"))  # or does not say
    provider.auth_age_seconds = 1
    await sign_in(operator, again="1")
    await operator.submit(page, f"{page}/keys/{key['id']}/revoke", reason="lost")
    assert (await api.get(f"/keys/{key['id']}"))["status"] == "revoked"


@pytest.mark.parametrize("auth_time", [1e300, -1e300, "now", None, [5], True, 10**400])
async def test_moment_that_is_none_proves_nothing(operator: Browser, provider: Provider, auth_time: Any) -> None:
    provider.alter = lambda claims: {**claims, "auth_time": auth_time}
    assert_refused(await sign_in(operator, again="1"))


async def test_session_ends_with_its_groups_its_provider_and_its_time(
    admin: AdminApi, operator: Browser, settings: Console
) -> None:
    await sign_in(operator)
    cookies = operator.client.cookies
    for changed in (Console(), Console(oidc=settings.oidc, scopes={"admins": ("all",)})):
        assert settings.oidc is not None
        async with httpx.AsyncClient(trust_env=False) as client:
            provider = OpenIdProvider(settings.oidc, secret=SECRET, client=client) if changed.oidc else None
            app = build_console(admin, secret=TOKEN, settings=changed, provider=provider)
            async with browser_of(app) as found:
                found.cookies = cookies
                await Browser(found).get("", status=303)
    await operator.get("")
    old = {"name": "ada@example.com", "groups": ["support"], "sid": "s", "proven": int(now().timestamp())}
    signed = CookieSigner(TOKEN).sign("console:session", old, lifetime=timedelta(seconds=-1))
    operator.client.cookies.set("__Host-console_session", signed, domain="console.local")
    await operator.get("", status=303)


async def test_sign_out_ends_the_session_of_the_console(operator: Browser) -> None:
    await sign_in(operator)
    await operator.submit("", "/sign-out")
    await operator.get("", status=303)


async def test_attempt_cookie_is_out_of_reach_of_scripts_and_other_sites(operator: Browser) -> None:
    answer = await operator.client.get("/console/oidc")
    (cookie,) = [each for each in answer.headers.get_list("set-cookie") if "console_oidc" in each]
    assert cookie.startswith("__Host-console_oidc=")
    assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}


def assert_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 403, answer.text
    assert 'role="alert"' in answer.text
    assert not any("console_session" in each for each in answer.headers.get_list("set-cookie"))
