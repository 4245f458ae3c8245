"""A trusted proxy names the operator by header fields; from any other address they mean nothing."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from gateway.api.admin import AdminApi
from gateway.config.operation.console import Console, TrustedProxy
from gateway.web.console.app import build_console
from tests.api.conftest import TOKEN
from tests.web.console.operators import Api, Browser
from tests.web.console.single_sign_on.conftest import SCOPES, browser_of

PROXY = "10.1.2.3"
NAMED = {"x-forwarded-user": "ada@example.com", "x-forwarded-groups": "sales, support"}


def a_browser(admin: AdminApi, headers: Any, *, peer: str = PROXY, scopes: Any = SCOPES) -> Browser:
    trusted = TrustedProxy(addresses=(ip_network("10.1.2.0/24"), ip_network("fd00::/64")))
    settings = Console(trusted_proxy=trusted, scopes=scopes)
    return Browser(browser_of(build_console(admin, secret=TOKEN, settings=settings), peer=peer, headers=headers))


async def test_operator_is_whom_the_proxy_names(admin: AdminApi, api: Api) -> None:
    operator = a_browser(admin, NAMED)
    page = await operator.get("")
    assert "proxy:ada@example.com" in page
    assert "/sign-out" not in page, "the proxy signs people out"
    assert (await operator.client.get("/console/sign-in")).headers["location"] == "/console"
    user = await api.create_user()
    path = f"/accounts/{user['id']}"
    await operator.submit(path, f"{path}/credits", amount="5", reason="goodwill", once="once-2")
    await operator.submit(path, f"{path}/suspend", reason="no scope for it", status=403)
    (entry,) = (await api.get("/audit-log", entity_id=user["id"], action="credits.grant"))["data"]
    assert entry["actor"] == "proxy:ada@example.com"


@pytest.mark.parametrize("peer", ["10.1.3.3", "127.0.0.1", "::1", "fd00:0:0:1::1", "", "unix:"])
async def test_fields_of_another_address_are_ignored(admin: AdminApi, peer: str) -> None:
    await a_browser(admin, {**NAMED, "x-forwarded-for": PROXY, "forwarded": f"for={PROXY}"}, peer=peer).get(
        "", status=303
    )


@pytest.mark.parametrize("peer", ["::ffff:10.1.2.3", "fd00::7"])
async def test_proxy_is_known_by_ipv6_too(admin: AdminApi, peer: str) -> None:
    await a_browser(admin, NAMED, peer=peer).get("")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-forwarded-user", "")],
        [("x-forwarded-user", "ada"), ("x-forwarded-user", "eve")],
        [("x-forwarded-user", "a" * 201)],
        [("x-forwarded-user", b"ada\x07")],
        [("x_forwarded_user", "ada")],
    ],
)
async def test_fields_that_name_nobody_sign_nobody_in(admin: AdminApi, headers: Any) -> None:
    await a_browser(admin, headers).get("", status=303)


@pytest.mark.parametrize("groups", [None, "", "sales", "Support", "support;admins", "*", "all"])
async def test_operator_in_no_group_sees_nothing(admin: AdminApi, groups: str | None) -> None:
    headers = {"x-forwarded-user": "ada"} | ({} if groups is None else {"x-forwarded-groups": groups})
    assert "Calls of the last" not in await a_browser(admin, headers).get("", status=403)


async def test_everybody_may_be_given_scopes(admin: AdminApi) -> None:
    operator = a_browser(admin, {"x-forwarded-user": "ada"}, scopes={"*": ("read",), "support": ("credits:write",)})
    assert "Give or take credits" not in await operator.get("")


async def test_form_of_one_operator_is_none_of_another(admin: AdminApi) -> None:
    operator = a_browser(admin, NAMED)
    form_token = await operator.form_token("/why")
    fields = {"form_token": form_token, "key": "gw_live_x"}
    operator.client.headers["x-forwarded-user"] = "eve@example.com"
    assert (await operator.client.post("/console/why", data=fields)).status_code == 403
    operator.client.headers["x-forwarded-user"] = "ada@example.com"
    assert (await operator.client.post("/console/why", data=fields)).status_code == 200


async def test_token_signs_in_beside_the_proxy(admin: AdminApi) -> None:
    operator = a_browser(admin, {})
    await operator.sign_in(TOKEN)
    assert "/sign-out" in await operator.get("")
