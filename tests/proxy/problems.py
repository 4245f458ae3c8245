"""The form of every refusal."""

from __future__ import annotations

from typing import Any

import httpx

_ALWAYS = {"type", "title", "status", "detail", "code", "request_id", "error"}


def assert_problem(answer: httpx.Response, status: int, code: str, **extras: Any) -> dict[str, Any]:
    """The problem document, after checking it against the contract.

    `extras` are exactly the members beyond those that every problem has.
    """
    document: dict[str, Any] = answer.json()
    assert (answer.status_code, document.get("code")) == (status, code), document
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["status"] == status
    assert document["type"] == f"/problems/{code}"
    assert document["title"]
    assert document["detail"]
    assert document["request_id"] == answer.headers["x-request-id"]
    assert document["error"].keys() == {"message", "type", "code"}
    assert (document["error"]["message"], document["error"]["code"]) == (document["detail"], code)
    members = {name.replace("-", "_"): value for name, value in document.items() if name not in _ALWAYS}
    assert members == extras
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert "x-credits-charged" not in answer.headers or answer.headers["x-credits-charged"] == "0"
    return document
