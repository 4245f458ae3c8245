"""Max-Forwards: how many intermediaries may still forward an OPTIONS (RFC 9110 section 7.6.2)."""

from __future__ import annotations

import pytest

from tests.proxy.data_plane import DataPlane
from tests.proxy.problems import assert_problem


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("1", "0"),
        ("10", "9"),
        ("010", "9"),
        ("999", "998"),
        ("9" * 5000, "999"),
        ("-1", "-1"),
        ("1.5", "1.5"),
        ("x", "x"),
    ],
)
async def test_forwarded_options_is_counted_down(data_plane: DataPlane, sent: str, received: str) -> None:
    account = await data_plane.create_account()
    async with data_plane.connect() as client:
        for _ in range(2):  # on one connection, whose fields are repeated
            await client.request(account, "OPTIONS /v1/things/1", f"max-forwards: {sent}")
            status, fields = await client.read_head()
            await client.reader.readexactly(int(fields["content-length"]))
            assert status == 200
            assert data_plane.upstream.last["max-forwards"] == received


@pytest.mark.parametrize("sent", ["0", "000"])
async def test_options_that_may_go_no_further_is_answered_here_and_costs_nothing(
    data_plane: DataPlane, sent: str
) -> None:
    account = await data_plane.create_account()
    await data_plane.get(account)
    headers = account.auth | {"max-forwards": sent}
    async with data_plane.assert_unchanged(account):
        answers = [await data_plane.http.options(f"/v1/{path}", headers=headers) for path in ("things/1", "things/1")]
        refused = await data_plane.http.options("/v1/post-only", headers=headers)
    assert [answer.status_code for answer in answers] == [204, 204]
    assert answers[1].headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
    assert "x-request-id" in answers[1].headers
    assert_problem(refused, 405, "method_not_allowed")
    assert_problem(await data_plane.http.options("/v1/things/1", headers={"max-forwards": sent}), 401, "missing_key")


async def test_other_methods_are_forwarded_as_they_came(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.connect() as client:
        for method, received in (("GET", "0"), ("OPTIONS", None), ("GET", "0")):
            await client.request(account, f"{method} /v1/things/1", "max-forwards: 0")
            status, fields = await client.read_head()
            await client.reader.readexactly(int(fields.get("content-length", "0")))
            assert status == (200 if received else 204)
            assert data_plane.upstream.last["max-forwards"] == "0"
    assert [exchange.method for exchange in data_plane.upstream.exchanges] == ["GET", "GET"]
