"""Of two operators who change one object, the later one does not undo what it never saw; HEAD answers as GET does."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from gateway.api.admin.preconditions import etag_of
from gateway.api.schemas.coupons import Coupon
from tests.api.conftest import AdminApi


async def make(admin_api: AdminApi, noun: str) -> str:
    """Gives its path."""
    if noun == "users":
        return f"/users/{(await admin_api.create_user())['id']}"
    if noun == "keys":
        user = await admin_api.create_user()
        return f"/keys/{(await admin_api.create_key(user['id']))['id']}"
    body: dict[str, Any] = {"name": uuid4().hex} | ({"price": "1"} if noun == "plans" else {})
    return f"/{noun}/{(await admin_api.post(f'/{noun}', body, status=201))['id']}"


@pytest.mark.parametrize(
    ("noun", "first", "second"),
    [
        ("plans", {"price": "2"}, {"requests_per_minute": 5}),
        ("users", {"company": "One"}, {"name": "Ada"}),
        ("products", {"description": "one"}, {"is_active": False}),
        ("keys", {"name": "one"}, {"status": "disabled"}),
    ],
)
async def test_change_of_an_object_that_has_changed_since_is_refused(
    admin_api: AdminApi, noun: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    path = f"/admin/v1{await make(admin_api, noun)}"
    read = await admin_api.client.get(path)
    tag = read.headers["etag"]
    changed = await admin_api.client.patch(path, json=first, headers={"if-match": tag})
    assert changed.status_code == 200, changed.text
    stale = await admin_api.client.patch(path, json=second, headers={"if-match": tag})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    again = await admin_api.client.get(path)
    assert {name: again.json()[name] for name in second} == {name: read.json()[name] for name in second}
    assert again.headers["etag"] == changed.headers["etag"] != tag
    for accepted in (f'"x", {again.headers["etag"]}', "*"):
        answer = await admin_api.client.patch(path, json=second, headers={"if-match": accepted})
        assert answer.status_code == 200, answer.text
    without = await admin_api.client.patch(path, json=first)
    assert without.status_code == 200, without.text


@pytest.mark.parametrize("path", ["/admin/v1/plans", "/admin/v1/no-such-thing", "/healthz"])
async def test_head_answers_as_get_without_the_body(admin_api: AdminApi, path: str) -> None:
    head, read = await admin_api.client.head(path), await admin_api.client.get(path)
    assert (head.status_code, head.content) == (read.status_code, b"")
    assert head.headers.get("content-type") == read.headers.get("content-type")


@pytest.mark.parametrize(
    ("noun", "change"), [("plans", {"price": "2"}), ("users", {"name": "Ada"}), ("products", {"is_active": False})]
)
async def test_deletion_of_an_object_that_has_changed_since_is_refused(
    admin_api: AdminApi, noun: str, change: dict[str, Any]
) -> None:
    path = f"/admin/v1{await make(admin_api, noun)}"
    tag = (await admin_api.client.get(path)).headers["etag"]
    await admin_api.client.patch(path, json=change)
    stale = await admin_api.client.delete(path, headers={"if-match": tag})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    assert (await admin_api.client.delete(path, headers={"if-match": "*"})).status_code == 204


async def test_redemptions_of_a_coupon_are_no_change_of_it(admin_api: AdminApi) -> None:
    body = {"code": f"c-{uuid4().hex[:12]}", "percent_off": 5}
    made = Coupon.model_validate(await admin_api.post("/coupons", body, status=201))
    used = made.model_copy(update={"redeemed": 1, "discounts": {"USD": Decimal(1)}})
    assert etag_of(used) == etag_of(made)
    assert etag_of(made.model_copy(update={"is_active": False})) != etag_of(made)
