"""Fields of responses: which reports are believed, which fields clients do not get, and whose id a record keeps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.proxy.conftest import Configure, Serve
from tests.proxy.data_plane import DataPlane

PROVIDER: dict[str, Any] = {
    "set_cookie": "__cf_bm=1",
    "openai_organization": "org-1",
    "x_ratelimit_remaining_tokens": "9",
    "x_request_id": "req_011",
    "openai_version": "2020-10-01",
    "alt_svc": 'h3=":443"',
    "strict_transport_security": "max-age=31536000; includeSubDomains",
}


async def test_reports_of_an_upstream_without_reports_are_stripped_and_ignored(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(200, gateway_credits="0", gateway_tokens="9", gateway_cost_usd="3")
    answer = await data_plane.get(account, "/v1/plain")
    assert not [name for name in answer.headers if name.startswith("gateway-")]
    row = await data_plane.usage_row(account)
    assert (row["credits_charged"], row["tokens_used"], row["cost_usd"]) == (1, None, None)


async def test_reports_of_a_client_do_not_reach_an_upstream_that_may_reflect_them(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    await data_plane.get(account, gateway_credits="0", gateway_tokens="0", gateway_cost_usd="0")
    assert not [name for name, _ in data_plane.upstream.last.fields if name.startswith("gateway-")]


async def test_reports_that_contradict_each_other_are_ignored(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    head = b"HTTP/1.1 200 OK\r\ngateway-credits: 7\r\ngateway-credits: 0\r\ncontent-length: 2\r\n\r\nok"
    data_plane.upstream.respond_with_bytes(head)
    assert (await data_plane.get(account, "/v1/dear")).headers["x-credits-charged"] == "7"
    data_plane.upstream.respond_with_bytes(head.replace(b": 7", b": 3").replace(b": 0", b": 3"))
    assert (await data_plane.get(account, "/v1/dear")).headers["x-credits-charged"] == "3"


@pytest.mark.parametrize("cost_usd", ["1E-300000", "0." + "0" * 40 + "1", "0E-300000"])
async def test_report_of_less_than_can_be_charged_is_ignored(data_plane: DataPlane, cost_usd: str) -> None:
    """A few bytes of exponent are a fraction of millions of digits, which holds the loop for minutes."""
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(200, gateway_cost_usd=cost_usd)
    answer = await data_plane.post(account, "/v1/dollars", b'{"model": "m"}')
    assert answer.status_code == 200
    row = await data_plane.usage_row(account)
    assert (row["usage_source"], row["credits_charged"], row["cost_usd"]) == ("missing", 5, None)


async def test_report_is_charged_up_to_the_maximum_of_the_price(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=20_000)
    data_plane.upstream.respond_with(200, b'{"usage": {"prompt_tokens": 1}}', gateway_credits="999999999")
    body = b'{"model": "gpt-4o", "messages": []}'
    answer = await data_plane.post(account, "/v1/chat/completions", body)
    assert answer.headers["x-credits-charged"] == "5000"


async def test_what_a_provider_tells_of_its_account_stays_here(data_plane: DataPlane) -> None:
    """The id of the provider's call is kept in the record, and the client gets the gateway's."""
    account = await data_plane.create_account(credits=20_000)
    body = b'{"model": "gpt-4o", "messages": []}'
    for streamed in (False, True):
        if streamed:
            lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in PROVIDER.items())
            chunk = b'{"usage": {"prompt_tokens": 1, "completion_tokens": 1}}'
            head = f"HTTP/1.1 200 OK\r\n{lines}transfer-encoding: chunked\r\n\r\n".encode()
            data_plane.upstream.respond_with_bytes(head, b"%x\r\n%b\r\n" % (len(chunk), chunk), b"0\r\n\r\n")
        else:
            data_plane.upstream.respond_with(200, **PROVIDER)
        answer = await data_plane.post(account, "/v1/chat/completions", body)
        assert answer.headers["openai-version"] == "2020-10-01"
        assert answer.headers["x-request-id"] != "req_011"
        withheld = {"set-cookie", "openai-organization", "x-ratelimit-remaining-tokens"}
        assert not (withheld | {"alt-svc", "strict-transport-security"}) & set(answer.headers)
    rows = await data_plane.usage_rows(account)
    assert [metadata_of(row)["upstream_request_id"] for row in rows] == ["req_011", "req_011"]


async def test_cookies_of_an_upstream_without_readers_pass(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(200, **PROVIDER)
    answer = await data_plane.get(account, "/v1/plain")
    assert (answer.headers["set-cookie"], answer.headers["openai-organization"]) == ("__cf_bm=1", "org-1")
    assert {"alt-svc", "strict-transport-security"} <= set(answer.headers)


async def test_dropped_fields_are_those_of_the_configuration(serve: Serve, configure: Configure) -> None:
    served = await serve(configure(upstreams__plain__drop_response_headers=["Server", "x-own-*"]))
    account = await served.create_account()
    served.upstream.respond_with(200, server="u", x_own_a="1", x_own="2", set_cookie="a=b")
    answer = await served.get(account, "/v1/plain")
    assert "server" not in answer.headers
    assert "x-own-a" not in answer.headers
    assert (answer.headers["x-own"], answer.headers["set-cookie"]) == ("2", "a=b")


async def test_request_id_that_an_upstream_echoes_or_garbles_is_not_kept(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    data_plane.upstream.respond_with(200, x_request_id="mine-1")
    await data_plane.get(account, x_request_id="mine-1")
    data_plane.upstream.respond_with(200, x_request_id="a b", request_id="x" * 129)
    await data_plane.get(account)
    data_plane.upstream.respond_with(200, x_amzn_requestid="aws-1")
    await data_plane.get(account)
    found = [metadata_of(row).get("upstream_request_id") for row in await data_plane.usage_rows(account)]
    assert found == [None, None, "aws-1"]


def metadata_of(row: object) -> dict[str, object]:
    stored = row["metadata"]  # type: ignore[index]
    return json.loads(stored) if isinstance(stored, str) else stored or {}


@pytest.mark.parametrize("more", [{}, {"idempotency_key": "k"}])
async def test_codings_that_no_pointer_can_read_are_not_asked_for(data_plane: DataPlane, more: dict[str, Any]) -> None:
    account = await data_plane.create_account()
    await data_plane.post(account, "/v1/chat", accept_encoding="br, dcb, gzip;q=0.5", **more)
    assert data_plane.upstream.last["accept-encoding"] == "br, gzip;q=0.5"
