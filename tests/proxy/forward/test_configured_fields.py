"""Fields that the configuration sets towards an upstream are the only ones of their names."""

from __future__ import annotations

from tests.proxy.conftest import Configure, Serve

CONFIGURED = {
    "x-forwarded-for": "192.0.2.1",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "api.example.com",
    "via": "2 edge",
    "x-request-id": "theirs",
    "traceparent": "00-1",
    "tracestate": "a=1",
}


async def test_configured_fields_replace_what_the_gateway_generates(serve: Serve, configure: Configure) -> None:
    trusted = configure(upstreams__plain__headers=CONFIGURED, server__trusted_proxies=["127.0.0.0/8"])
    data_plane = await serve(trusted)
    account = await data_plane.create_account()
    trace = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "b=2", "x-forwarded-for": "203.0.113.9"}
    headers = account.auth | trace | {"x-request-id": "mine"}
    for _ in range(2):  # on one connection, beside calls to another upstream
        for path in ("/v1/plain", "/v1/things/1", "/v1/plain"):
            answer = await data_plane.http.get(path, headers=headers)
            assert answer.headers["x-request-id"] == "mine"
            received = {name: data_plane.upstream.last.all(name) for name in CONFIGURED}
            if path == "/v1/plain":
                assert received == {name: [value] for name, value in CONFIGURED.items()}
            else:
                assert received["x-forwarded-proto"] == ["http"]
                assert received["x-request-id"] == ["mine"]
                assert [len(values) for values in received.values()] == [1] * len(CONFIGURED)
