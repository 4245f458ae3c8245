"""Keys of another system are imported by their digests, each by itself."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.api.conftest import PEPPERS, AdminApi
from tests.importing.examples import EXAMPLES, secret, write
from tests.importing.importing import run_import


def an_item(user: dict[str, Any], key: str, **given: Any) -> dict[str, Any]:
    digest = hashlib.sha256(key.encode()).hexdigest()
    return {"user_id": user["id"], "digest": digest, "prefix": key[:5], "last4": key[-4:], **given}


async def test_key_import_decides_each_key_by_itself(admin_api: AdminApi) -> None:
    user, key = await admin_api.create_user(), f"acme_{uuid4().hex}"
    await admin_api.client.post("/admin/v1/permissions", json={"name": "analyze"})  # which may be there already
    items = [
        an_item(user, key, name="from acme", permissions=["analyze"]),
        an_item({"id": str(uuid4())}, f"acme_{uuid4().hex}"),
        an_item(user, key),
        an_item(user, f"acme_{uuid4().hex}", permissions=["anallyze"]),
    ]
    result = await admin_api.post("/keys/import", {"algorithm": "sha256", "keys": items})
    (imported,) = result["imported"]
    assert imported["index"] == 0
    assert (imported["key"]["name"], imported["key"]["permissions"]) == ("from acme", ["analyze"])
    assert [(each["index"], each["code"]) for each in result["failed"]] == [
        (1, "not_found"),
        (2, "conflict"),
        (3, "validation_failed"),
    ]
    assert [entry["action"] for entry in await admin_api.audit(imported["key"]["id"])] == ["keys.import"]
    verdict = await admin_api.post("/keys/verify", {"key": key})
    assert (verdict["key_id"], verdict["code"]) == (imported["key"]["id"], "subscription_inactive")


async def test_key_import_takes_digests_under_a_pepper(admin_api: AdminApi) -> None:
    user, key = await admin_api.create_user(), f"acme_{uuid4().hex}"
    item = an_item(user, key) | {"digest": hmac.digest(PEPPERS[1], key.encode(), "sha256").hex()}
    body = {"algorithm": "hmac-sha256", "pepper_version": 1, "keys": [item]}
    (imported,) = (await admin_api.post("/keys/import", body))["imported"]
    assert (await admin_api.post("/keys/verify", {"key": key}))["key_id"] == imported["key"]["id"]


async def test_key_import_refuses_a_malformed_digest_by_name(admin_api: AdminApi) -> None:
    user = await admin_api.create_user()
    item = an_item(user, "acme_0123456789")
    for body, field in (
        ({"algorithm": "md5", "keys": [item]}, "algorithm"),
        ({"algorithm": "sha256", "pepper_version": 1, "keys": [item]}, "pepper_version"),
        ({"algorithm": "hmac-sha256", "keys": [item]}, "pepper_version"),
        ({"algorithm": "hmac-sha256", "pepper_version": 7, "keys": [item]}, "pepper_version"),
        ({"algorithm": "sha256", "keys": []}, "keys"),
        ({"algorithm": "sha256", "keys": [item | {"digest": "00"}]}, "keys.0.digest"),
        ({"algorithm": "sha256", "keys": [item] * 501}, "keys"),
    ):
        response = await admin_api.call("POST", "/keys/import", status=422, json=body)
        assert response["errors"][0]["field"] == field


async def test_keys_of_an_imported_database_are_verified_with_their_plan_and_credits(
    admin_api: AdminApi, tmp_path: Path
) -> None:
    """In the clear and as digests, of accounts with and without a subscription."""
    for shape in ("plan-permissions", "firebase"):
        example, url = EXAMPLES[shape](4), f"sqlite:///{tmp_path / shape}.db"
        tables = {name: [_apart(row, shape) for row in rows] for name, rows in example.tables.items()}
        await write(url, tables, keys=example.key_columns)
        done = await run_import(admin_api.database, url, shape)
        assert done.problems == []
    for number, code in ((1, None), (4, "subscription_inactive")):
        key = f"{secret(number)}plan-permissions"
        verdict = await admin_api.post("/keys/verify", {"key": key, "route": "analyze", "credits": 1})
        assert verdict["code"] == code, verdict
    for credits, code in ((5, None), (6, "insufficient_credits")):
        verdict = await admin_api.post("/keys/verify", {"key": f"{secret(1)}firebase", "credits": credits})
        assert (verdict["code"], verdict["plan"]) == (code, "studio")


def _apart(row: dict[str, Any], shape: str) -> dict[str, Any]:
    """Addresses and keys that no other example of this database has."""
    own = dict(row)
    if "email" in own:
        own["email"] = f"{shape}.{own['email']}"
    if "key" in own:
        own["key"] += shape
    if "key_hash" in own:
        own["key_hash"] = hashlib.sha256(f"{secret(int(own['id'].removeprefix('key-')))}{shape}".encode()).hexdigest()
    return own
