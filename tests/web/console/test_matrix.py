"""Over every page and action: nobody, tokens of each scope, and forms that no page of this session showed."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from gateway.api.admin.scopes import SCOPES
from gateway.web.console import app as console_app
from tests.web.console.operators import Api, Browser

# What each form needs, independent of the product: read for its page, and the scope of the API's operation.
ACTIONS = {
    "/accounts/{user}/credits": "credits:write",
    "/accounts/{user}/plan": "subscriptions:write",
    "/accounts/{user}/pause": "subscriptions:write",
    "/accounts/{user}/resume": "subscriptions:write",
    "/accounts/{user}/suspend": "users:write",
    "/accounts/{user}/reactivate": "users:write",
    "/accounts/{user}/note": "users:write",
    "/accounts/{user}/sign-in-as": "admin:write",
    "/accounts/{user}/keys/{key}/rotate": "keys:write",
    "/accounts/{user}/keys/{key}/revoke": "keys:write",
    "/plans/{plan}": "plans:write",
    "/permissions": "plans:write",
    "/permissions/{permission}/delete": "plans:write",
    "/coupons": "billing:write",
    "/coupons/{coupon}": "billing:write",
    "/payments/{payment}/refund": "billing:write",
    "/events/{event}/replay": "billing:write",
    "/experiments": "plans:write",
    "/experiments/{experiment}/start": "plans:write",
    "/experiments/{experiment}/stop": "plans:write",
    "/experiments/{experiment}/delete": "plans:write",
    "/why": "read",
    "/usage/exports": "read",
    "/usage/exports/{run}/cancel": "read",
    "/replays": "billing:write",
    "/replays/{run}/cancel": "billing:write",
    "/prices": "read",
    "/tokens": "admin:write",
    "/tokens/{token}/revoke": "admin:write",
    "/system/reconcile": "admin:write",
    "/system/reconcile/{run}/cancel": "admin:write",
    "/system/imports/{import}/cancel": "admin:write",
}
PAGES = (
    *(
        "",
        "/find",
        "/find?q=abc",
        "/usage",
        "/usage/accounts",
        "/usage/exports",
        "/plans",
        "/prices",
        "/coupons",
        "/coupons/{coupon}",
        "/plans/{plan}",
        "/experiments",
        "/experiments/{experiment}",
    ),
    *(
        "/accounts/{user}",
        "/accounts/{user}/ledger",
        "/accounts/{user}/calls",
        "/accounts/{user}/keys",
        "/accounts/{user}/refusals",
    ),
    *(
        "/money",
        "/money?list=invoices",
        "/money?list=events",
        "/why",
        "/audit",
        "/audit?verify=1",
        "/tokens",
        "/system",
    ),
)
# Forms that change nothing, and that of a plan, which has no button for who may read alone.
READING = ("/sign-out", "/console/why", "/console/prices", "/plans/", "/usage/exports")
FORMS: dict[str, dict[str, Any]] = {
    "/accounts/{user}/credits": {"amount": "5", "reason": "matrix"},
    "/accounts/{user}/plan": {"plan_id": "{plan}", "reason": "matrix"},
    "/accounts/{user}/sign-in-as": {"reason": "matrix"},
    "/plans/{plan}": {"price": "{price}", "confirmed": "{confirmed}"},
    "/experiments": {"name": "matrix", "variants": "a: pro\nb: basic"},
    "/permissions": {"name": "matrix"},
    "/coupons": {"code": "M-{word}", "kind": "percent_off", "value": "5"},
    "/coupons/{coupon}": {"is_active": "1"},
    "/why": {"key": "gw_live_x"},
}


@pytest.fixture(scope="module")
async def things(api: Api) -> dict[str, str]:
    """Ids for the paths."""
    plan = await api.create_plan()
    user = await api.create_user(plan=plan["id"])
    key = await api.post("/keys", {"user_id": user["id"]})
    payment = await api.post("/payments", {"user_id": user["id"], "amount": "5.00"})
    word = uuid4().hex[:8]
    coupon = await api.post("/coupons", {"code": f"C-{word}", "percent_off": "10"})
    token = await api.post("/admin-tokens", {"name": f"m{uuid4().hex}", "scopes": ["read"]})
    found = {"user": user["id"], "key": key["id"], "plan": plan["id"], "payment": payment["id"], "token": token["id"]}
    variants = [{"name": "a", "plans": [plan["id"]]}, {"name": "b", "plans": [(await api.create_plan())["id"]]}]
    experiment = await api.post("/experiments", {"name": uuid4().hex, "variants": variants})
    await api.post(f"/experiments/{experiment['id']}/start")
    found["experiment"] = experiment["id"]
    found |= {"coupon": coupon["id"], "word": word, "import": str(uuid4())}
    return found | {"event": str(uuid4()), "run": str(uuid4()), "permission": str(uuid4())}


def test_matrix_has_every_page_and_action() -> None:
    served = {
        (method, path)
        for module in console_app._PAGES
        for method, path, _ in module.pages._pages
        if path != "/sign-out"
    }
    names = {"{user_id}": "{user}", "{key_id}": "{key}", "{payment_id}": "{payment}", "{event_id}": "{event}"}
    names |= {
        "{token_id}": "{token}",
        "{run_id}": "{run}",
        "{permission_id}": "{permission}",
        "{coupon_id}": "{coupon}",
        "{import_id}": "{import}",
    }

    def named(path: str) -> str:
        for old, new in names.items():
            path = path.replace(old, new)
        return path

    assert {named(path) for method, path in served if method == "POST"} == set(ACTIONS)
    pages = {named(path) for method, path in served if method == "GET"}
    assert pages - {path.partition("?")[0] for path in PAGES} == {
        "/calls/{request_id}",
        "/payments/{payment}",
        "/usage/exports/{run}/file",
    }


async def test_nobody_sees_or_does_anything(stranger: Browser, things: dict[str, str]) -> None:
    for path in PAGES:
        answer = await stranger.client.get(f"/console{path.format(**things)}")
        assert (answer.status_code, answer.text) == (303, ""), path
    for path in ACTIONS:
        answer = await stranger.client.post(f"/console{path.format(**things)}", data={"form_token": "x"})
        assert answer.status_code == 303, path


@pytest.mark.parametrize("scope", sorted(SCOPES))
async def test_scope_shows_and_does_what_the_api_would(
    stranger: Browser, api: Api, things: dict[str, str], scope: str
) -> None:
    """A token without `read` sees no page at all; one with it acts by its other scope alone."""
    await stranger.sign_in(await api.token(scope))
    for path in PAGES if scope in ("read", "admin:write") else PAGES[:3]:
        await stranger.get(path.format(**things), status=200 if scope == "read" else 403)
    await stranger.submit("/why", "/sign-out") if scope == "read" else stranger.client.cookies.clear()
    await stranger.sign_in(await api.token(*{"read", scope}))
    form_token = await stranger.form_token("/why")
    version = (await api.get(f"/plans/{things['plan']}"))["version"]
    price = f"{version}.75"
    confirmed = await stranger.confirmation(f"/plans/{things['plan']}", price=price)
    things = {**things, "price": price, "confirmed": confirmed}
    wrong = []
    for path, needed in ACTIONS.items():
        fields = {name: value.format(**things) for name, value in FORMS.get(path, {}).items()}
        answer = await stranger.client.post(
            f"/console{path.format(**things)}", data={**fields, "form_token": form_token}
        )
        if (answer.status_code == 403) is (needed in {"read", scope}):
            wrong.append((path, answer.status_code))
    assert not wrong


async def test_read_only_operator_is_shown_no_form_that_acts(
    stranger: Browser, api: Api, things: dict[str, str]
) -> None:
    await stranger.sign_in(await api.token("read"))
    for path in PAGES:
        page = await stranger.get(path.format(**things))
        acting = [line for line in page.split("<form") if 'method="post"' in line.partition(">")[0]]
        allowed = [form for form in acting if any(path in form.partition(">")[0] for path in READING)]
        assert acting == allowed, path


@pytest.mark.parametrize("form_token", ["", "x", "stolen"])
async def test_form_that_this_session_was_not_shown_does_nothing(
    root: Browser, api: Api, things: dict[str, str], form_token: str
) -> None:
    if form_token == "stolen":
        stolen = await root.form_token("/why")
        root.client.cookies.clear()
        await root.sign_in(await api.token(*SCOPES))
        form_token = stolen
    before = await api.get("/audit-log", limit=1)
    things = {**things, "confirmed": "x", "price": "3.00"}
    for path in ACTIONS:
        fields = {name: value.format(**things) for name, value in FORMS.get(path, {}).items()}
        answer = await root.client.post(f"/console{path.format(**things)}", data={**fields, "form_token": form_token})
        assert answer.status_code == 403, path
    assert await api.get("/audit-log", limit=1) == before


async def test_form_of_another_site_does_nothing(root: Browser, things: dict[str, str]) -> None:
    form_token = await root.form_token("/why")
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        for path in ACTIONS:
            answer = await root.client.post(
                f"/console{path.format(**things)}", data={"form_token": form_token}, headers=headers
            )
            assert answer.status_code == 403, path
