"""The page of an account: what it is, has, uses and paid."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from gateway.web.charts import Series
from gateway.web.console.in_process import is_uuid, segment
from gateway.web.console.operator import Operator
from gateway.web.pages import PageRoutes

pages: PageRoutes[Operator] = PageRoutes()

_SHOWN, _KEYS_NAMED = 8, 500


@pages.get("/accounts/{user_id}")
async def show_account(page: Operator) -> Response:
    return await account_page(page)


@pages.get("/accounts/{user_id}/ledger")
async def show_ledger(page: Operator) -> Response:
    user_id = id_in_path(page)
    user = await page.api.get(f"/users/{user_id}")
    entries = await page.api.get(f"/users/{user_id}/ledger", cursor=page.param("cursor"), limit=50)
    return page.render("ledger.html", user=user, page=entries)


@pages.get("/accounts/{user_id}/calls")
async def show_calls(page: Operator) -> Response:
    user_id = id_in_path(page)
    user = await page.api.get(f"/users/{user_id}")
    calls = await page.api.get("/usage", user_id=user_id, cursor=page.param("cursor"), limit=50)
    return page.render("calls.html", user=user, page=calls)


@pages.get("/accounts/{user_id}/keys")
async def show_keys(page: Operator) -> Response:
    user_id = id_in_path(page)
    user = await page.api.get(f"/users/{user_id}")
    keys = await page.api.get("/keys", user_id=user_id, cursor=page.param("cursor"), limit=50)
    return page.render("keys.html", user=user, keys=keys, action=None, form=page.form)


@pages.get("/accounts/{user_id}/refusals")
async def show_refusals(page: Operator) -> Response:
    """Of the last 30 days."""
    user_id = id_in_path(page)
    user = await page.api.get(f"/users/{user_id}")
    query = {"user_id": user_id, "group_by": "day,endpoint,code,key", "cursor": page.param("cursor"), "limit": 50}
    refusals = await page.api.get("/refusals", **query)
    keys = (await page.api.get("/keys", user_id=user_id, limit=_KEYS_NAMED))["data"]
    names = {key["id"]: f"{key['name'] or 'Unnamed'} (…{key['last4']})" for key in keys}
    return page.render("refusals.html", user=user, page=refusals, names=names)


def id_in_path(page: Operator) -> str:
    """Raises HTTPException(404) for what is none."""
    found = page.path("user_id")
    if not is_uuid(found):
        raise HTTPException(404)
    return found


async def account_page(page: Operator, *, status: int = 200, **more: Any) -> Response:
    """The page, perhaps with a form that the API refused."""
    user_id, get = id_in_path(page), page.api.get
    user = await get(f"/users/{user_id}")
    daily = await get("/usage/daily", user_id=user_id, measure="credits_charged")
    context = {
        "user": user,
        "credits": await get(f"/users/{user_id}/credits"),
        "keys": await _keys(page, user_id),
        "ledger": await get(f"/users/{user_id}/ledger", limit=_SHOWN),
        "calls": await get("/usage", user_id=user_id, limit=_SHOWN),
        "payments": await get("/payments", user_id=user_id, limit=_SHOWN),
        "redemptions": await get("/coupon-redemptions", user_id=user_id, limit=_SHOWN),
        "top_up": await get(f"/users/{user_id}/top-up"),
        "invoices": await get("/invoices", user_id=user_id, limit=_SHOWN),
        "history": await get("/audit-log", entity="user", entity_id=user_id, limit=_SHOWN),
        "plans": (await get("/plans"))["data"],
        "labels": [f"{day[8:]}.{day[5:7]}." for day in daily["days"]],
        "series": [Series("credits", each["sums"]) for each in daily["series"]],
    }
    shown: dict[str, Any] = {"action": None, "form": page.form, "issued": None, "portal": None, **context, **more}
    return page.render("account.html", status=status, **shown)


async def _keys(page: Operator, user_id: str) -> Any:
    """The newest, and the one that was found or whose form was sent, if it is older."""
    found = await page.api.get("/keys", user_id=user_id, limit=_SHOWN)
    key_id = page.visit.request.path_params.get("key_id") or page.param("key")
    if key_id is not None and all(key["id"] != key_id for key in found["data"]):
        sent = await page.api.get(f"/keys/{segment(key_id)}")
        found["data"] += [sent] if sent["user_id"] == user_id else []
    return found
