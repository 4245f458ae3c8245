"""400: the request has two readings, or a priced body is not the JSON it must be."""

from __future__ import annotations

import gzip
import json

import pytest

from tests.proxy.data_plane import DataPlane
from tests.proxy.problems import assert_problem


@pytest.mark.parametrize(
    "path",
    [
        "/v1/things/../dear",
        "/v1/things/./1",
        "/v1/things//1",
        "/v1/things/%2e%2e/dear",
        "/v1/things/%2E/1",
        "/v1/things/a%2fb",
        "/v1/things/a%5cb",
        "/v1/things/a\\b",
        "/v1/things/a;b",
        "/v1/things/a%3bb",
        "/v1/things/a%00b",
        "/v1/things/a%0d%0ab",
        "/v1/things/%2e./dear",
        "/%6De/keys",
        "/v1/things/%25%36%31",
        "/v1/things/a%zz",
        "/v1/things/a%4",
        "/v1/things/a%252fb",
        "/v1/things/..",
    ],
)
async def test_ambiguous_path_is_refused(data_plane: DataPlane, path: str) -> None:
    account = await data_plane.create_account()
    async with data_plane.assert_unchanged(account), data_plane.connect() as client:
        await client.request(account, f"GET {path}")
        status, fields = await client.read_head()
        document = json.loads(await client.reader.readexactly(int(fields["content-length"])))
    assert (status, document["code"]) == (400, "bad_request")
    assert fields["content-type"] == "application/problem+json"


async def test_different_keys_in_two_fields_are_refused(data_plane: DataPlane) -> None:
    account, other = await data_plane.create_account(), await data_plane.create_account()
    async with data_plane.assert_unchanged(account):
        answer = await data_plane.get(account, authorization=f"Bearer {other.key}")
    assert_problem(answer, 400, "bad_request")
    assert (await data_plane.get(account, authorization=f"Bearer {account.key}")).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"products=1",
        b"\xff\xfe",
        b'{"products": null}',
        b'{"products": "abc"}',
        b'{"products": -1}',
        b'{"products": 1.5}',
        b'{"products": true}',
        b'{"products": {}}',
        b'{"other": []}',
        b"[]",
        b"[" * 9000,
        b'{"products": ' + b"9" * 5000 + b"}",
        b'{"products": 1e400}',
        b'{"products": %d}' % 2**31,
        b'{"products": ' + b"9" * 4300 + b"}",
    ],
)
async def test_priced_body_without_its_price_is_refused(data_plane: DataPlane, body: bytes) -> None:
    account = await data_plane.create_account()
    async with data_plane.assert_unchanged(account):
        answer = await data_plane.post(account, "/v1/generate", body)
    assert answer.json()["code"] == "invalid_body", answer.text
    extras = {"pointer": "/products"} if "pointer" in answer.json() else {}
    assert_problem(answer, 400, "invalid_body", **extras)


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "gpt-4o", "products": 1, "model": "gpt-4o", "products": 2}',
        b'{"model": "gpt-4o", "products": 1, "Model": "gpt-4o", "Products": 2}',
        b'{"model": "gpt-4o", "products": 1, "mod\\u0065l": "gpt-4o", "product\\u0073": 2}',
        b'\xef\xbb\xbf{"model": "gpt-4o", "products": 1}',
        '{"model": "gpt-4o", "products": 1}'.encode("utf-16"),
        '{"model": "gpt-4o", "products": 1}'.encode("utf-16-be"),
        b'{"model": "gpt-4o", "products": 1, "temperature": NaN}',
        b'{"model": "gpt-4o", "products": 1, "temperature": -Infinity}',
        b'{"model": "gpt-4o", "products": 1, "messages": ' + b"[" * 4_900 + b"]" * 4_900 + b"}",
        b'{"model": "gpt-4o", "products": 1, "messages": ' + b'{"a":' * 1_600 + b"1" + b"}" * 1_600 + b"}",
    ],
    ids=["twice", "by case", "escaped", "mark", "utf-16", "utf-16-be", "nan", "infinity", "arrays", "objects"],
)
async def test_body_that_two_parsers_may_read_differently_is_refused(
    data_plane: DataPlane, path: str, body: bytes
) -> None:
    account = await data_plane.create_account(credits=10_000)
    for content, coding in ((body, {}), (gzip.compress(body), {"content-encoding": "gzip"})):
        async with data_plane.assert_unchanged(account):
            answer = await data_plane.http.post(path, content=content, headers=account.auth | coding)
        assert_problem(answer, 400, "invalid_body")
    assert not data_plane.upstream.exchanges


async def test_nesting_of_ten_thousand_is_refused(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=10_000)
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        body = b'{"model": "gpt-4o", "messages": ' + opening * 10_000 + b"1" + closing * 10_000 + b"}"
        async with data_plane.assert_unchanged(account):
            assert_problem(await data_plane.post(account, "/v1/chat/completions", body), 400, "invalid_body")


async def test_more_items_than_anyone_can_pay_for_overflow_nothing(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    await data_plane.get(account)
    for items in (2**16, 2**31 - 1):
        async with data_plane.assert_unchanged(account):
            answer = await data_plane.post(account, "/v1/generate", b'{"products": %d}' % items)
        assert_problem(answer, 402, "insufficient_credits", required=items, available=99)


@pytest.mark.parametrize("target", [b"/v1/things/1?q=\xff", b"/v1/things/1?q=\x7f", b"/v1/things/\xc3\xa9"])
async def test_request_target_with_raw_octets_is_refused_and_holds_nothing(
    data_plane: DataPlane, target: bytes
) -> None:
    account = await data_plane.create_account()
    async with data_plane.assert_unchanged(account), data_plane.connect() as client:
        await client.send(b"GET %b HTTP/1.1\r\nhost: x\r\nx-api-key: %b\r\n\r\n" % (target, account.key.encode()))
        assert (await client.read_head())[0] == 400


@pytest.mark.parametrize("value", [b"a\x7fb", b"a\x01b"])
async def test_field_with_control_characters_is_refused_and_holds_nothing(data_plane: DataPlane, value: bytes) -> None:
    account = await data_plane.create_account()
    async with data_plane.assert_unchanged(account), data_plane.connect() as client:
        head = b"GET /v1/things/1 HTTP/1.1\r\nhost: x\r\nx-odd: %b\r\nx-api-key: %b\r\n\r\n"
        await client.send(head % (value, account.key.encode()))
        assert (await client.read_head())[0] == 400


async def test_upload_that_is_broken_off_is_answered_under_the_id_of_its_client(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.connect() as client:
        fields = "x-request-id: mine-1", "expect: 100-continue", "transfer-encoding: chunked"
        await client.request(account, "POST /v1/things/1", *fields)
        assert (await client.read_head())[0] == 100
        await client.send(b"no size\r\n")
        status, answered = await client.read_head()
    assert (status, answered["x-request-id"]) == (400, "mine-1")
    await data_plane.settled_state(account)
    row = await data_plane.usage_row(account)
    assert (row["outcome"], row["client_request_id"], row["credits_charged"]) == ("client_aborted", "mine-1", 0)
