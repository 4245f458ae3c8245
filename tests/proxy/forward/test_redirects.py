"""Where upstreams send clients: what leads to the upstream itself leads through the gateway, all else stays."""

from __future__ import annotations

import pytest

from gateway.proxy.forward.redirects import origins
from tests.proxy.conftest import Configure, Serve
from tests.proxy.data_plane import DataPlane
from tests.proxy.upstream import ScriptedUpstream

ORIGINS = origins(["http://10.0.0.7:9000/api", "https://inside.test"], "Public.test:443")


@pytest.mark.parametrize(
    ("value", "passed"),
    [
        ("http://10.0.0.7:9000/api/v1/a?b=1#c", "/router/v1/a?b=1#c"),
        ("HTTP://10.0.0.7:9000/api", "/router/"),
        ("//10.0.0.7:9000/api/v1", "/router/v1"),
        ("http://user@10.0.0.7:9000/api/v1", "/router/v1"),
        ("https://INSIDE.test:443/v1/a", "/router/v1/a"),
        ("https://inside.test", "/router/"),
        ("https://inside.test//evil.test/a", "/router/evil.test/a"),
        ("https://public.test/v1", "/router/v1"),
        ("/api/v1/a", "/router/v1/a"),
        ("/apis/v1", "/router/apis/v1"),
        ("relative?a=1", "relative?a=1"),
        ("https://elsewhere.test/api/v1", "https://elsewhere.test/api/v1"),
        ("http://10.0.0.7/api/v1", "http://10.0.0.7/api/v1"),
        ("//elsewhere.test/v1", "//elsewhere.test/v1"),
        ("mailto:a@b.test", "mailto:a@b.test"),
        ("", ""),
    ],
)
def test_location_of_a_target_becomes_a_path_of_the_gateway(value: str, passed: str) -> None:
    fields = [(b"location", value.encode()), (b"x-location", b"http://10.0.0.7:9000/")]
    assert ORIGINS.public(fields, "/router") == [(b"location", passed.encode()), fields[1]]


async def test_client_follows_a_redirect_of_the_upstream_through_the_gateway(
    serve: Serve, configure: Configure, upstream: ScriptedUpstream
) -> None:
    config = configure(upstreams__plain__targets=f"{upstream.url}/api", routes__plain__match__path="/router/v1/**",
                       routes__plain__strip_prefix="/router")  # fmt: skip
    served = await serve(config)
    account = await served.create_account()
    served.upstream.respond_with(307, b"", location=f"{upstream.url}/api/v1/b/", content_location="/api/v1/a")
    answer = await served.get(account, "/router/v1/a")
    assert (answer.headers["location"], answer.headers["content-location"]) == ("/router/v1/b/", "/router/v1/a")
    served.upstream.respond_with(200)
    assert (await served.get(account, answer.headers["location"])).status_code == 200
    assert served.upstream.last.target == "/api/v1/b/"


async def test_redirect_with_a_streamed_body_hides_the_target_too(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    head = f"HTTP/1.1 302 Found\r\nlocation: {data_plane.upstream.url}/v1/x\r\ntransfer-encoding: chunked\r\n\r\n"
    data_plane.upstream.respond_with_bytes(head.encode(), b"2\r\nok\r\n", b"0\r\n\r\n")
    assert (await data_plane.get(account, "/v1/plain")).headers["location"] == "/v1/x"
