"""The path towards the upstream: canonical, without a stripped prefix, below the base path of its target."""

from __future__ import annotations

from tests.proxy.conftest import Configure, Serve
from tests.proxy.data_plane import DataPlane
from tests.proxy.upstream import ScriptedUpstream


async def test_needless_escapes_are_the_same_path_for_route_price_record_and_upstream(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    async with data_plane.connect() as wire:
        for path in ("/v1/dear", "/v1/de%61r", "/%76%31/dear?x=%61"):
            await wire.request(account, f"GET {path}")
            _, fields = await wire.read_head()
            await wire.reader.readexactly(int(fields["content-length"]))
            assert fields["x-credits-charged"] == "7"
    assert [exchange.target for exchange in data_plane.upstream.exchanges] == ["/v1/dear", "/v1/dear", "/v1/dear?x=%61"]
    assert {row["path"] for row in await data_plane.usage_rows(account)} == {"/v1/dear"}


async def test_base_path_of_the_target_stands_before_what_strip_prefix_leaves(
    serve: Serve, configure: Configure, upstream: ScriptedUpstream
) -> None:
    config = configure(upstreams__plain__targets=f"{upstream.url}/api/", routes__plain__match__path="/router/v1/**",
                       routes__plain__strip_prefix="/router")  # fmt: skip
    served = await serve(config)
    account = await served.create_account()
    for path, expected in (("/router/v1/a", "/api/v1/a"), ("/router/v1/%61?q=1", "/api/v1/a?q=1")):
        assert (await served.get(account, path)).status_code == 200
        assert served.upstream.last.target == expected
    assert (await served.get(account, "/router/v1/../x")).status_code in (400, 404)


async def test_encoded_slash_of_a_route_that_passes_them_reaches_the_upstream(
    serve: Serve, configure: Configure
) -> None:
    served = await serve(configure(routes__things__encoded_slashes="pass"))
    account = await served.create_account()
    async with served.connect() as wire:
        await wire.request(account, "GET /v1/things/https%3A%2f%2Fa.test?x=%2F")
        assert (await wire.read_head())[0] == 200
    assert served.upstream.last.target == "/v1/things/https:%2F%2Fa.test?x=%2F"
    assert (await served.usage_row(account))["path"] == "/v1/things/https:%2F%2Fa.test"


async def test_host_of_the_client_reaches_an_upstream_that_verifies_signed_requests(
    serve: Serve, configure: Configure
) -> None:
    """As AWS Signature Version 4 signs: the method, the path, the query, Host and the fields that it names."""
    served = await serve(configure(upstreams__open__host="pass"))
    account = await served.create_account()
    signed = "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date"
    fields = {"authorization": signed, "x-amz-date": "20260101T000000Z", "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    answer = await served.get(account, "/v1/open/a%20b?list-type=2&prefix=%2B", host="bucket.s3.test", **fields)
    assert answer.status_code == 200
    sent = served.upstream.last
    assert (sent.target, sent["host"]) == ("/v1/open/a%20b?list-type=2&prefix=%2B", "bucket.s3.test")
    assert {name: sent[name] for name in fields} == fields
    await served.get(account, "/v1/plain", host="bucket.s3.test")
    assert served.upstream.last["host"] in served.upstream.url
