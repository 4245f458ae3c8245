"""Spans as a collector receives them over OTLP: their traces, their attributes, and what they never hold."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from redis.asyncio import Redis

from gateway.config import ConfigError, load
from gateway.ledger.db.session import Database
from gateway.meter.client.client import RedisClient
from tests.proxy import data_plane as data_planes
from tests.proxy.conftest import Configure
from tests.proxy.data_plane import DataPlane
from tests.proxy.upstream import ScriptedUpstream

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


class Collector:
    """The requests that an OTLP/HTTP receiver has taken."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.services: set[str] = set()

    def spans(self) -> list[Span]:
        found = []
        for body in self.bodies:
            for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.services |= {
                    each.value.string_value for each in sent.resource.attributes if each.key == "service.name"
                }
                found += [span for scope in sent.scope_spans for span in scope.spans]
        return found

    def pairs(self) -> list[tuple[Span, Span | None]]:
        """Each server span with its client span."""
        below = {span.parent_span_id: span for span in self.spans() if span.kind == Span.SPAN_KIND_CLIENT}
        return [(span, below.get(span.span_id)) for span in self.spans() if span.kind == Span.SPAN_KIND_SERVER]


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    taken = Collector()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            is_it = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
            taken.bodies += [body] if is_it else []
            self.send_response(200 if is_it else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield taken, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def traced(
    configure: Configure,
    collector: tuple[Collector, str],
    _upstream: ScriptedUpstream,
    database: Database,
    redis: Redis,
    redis_client: RedisClient,
) -> Any:
    """A data plane that has exported all its spans on exit."""
    _upstream.reset()

    @asynccontextmanager
    async def served(**tracing: object) -> AsyncIterator[DataPlane]:
        settings = {f"tracing__{name}": value for name, value in {"endpoint": collector[1], **tracing}.items()}
        config = configure(server__trusted_proxies=["127.0.0.1"], **settings)
        async with data_planes.running(
            config, _upstream, database=database, redis=redis, redis_client=redis_client
        ) as data_plane:
            yield data_plane

    return served


def attributes_of(span: Span) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


async def test_call_is_a_server_span_with_its_exchange_as_child(traced: Any, collector: tuple[Collector, str]) -> None:
    before = time.time_ns()
    async with traced(sample_ratio="1", service_name="metering") as data_plane:
        account = await data_plane.create_account()
        answer = await data_plane.post(account, "/v1/things/7?token=hush", b'{"secret": "hush"}')
        assert answer.status_code == 200
        sent = data_plane.upstream.exchanges[-1]["traceparent"]
    ((server, client),) = collector[0].pairs()
    assert client is not None
    assert sent == f"00-{server.trace_id.hex()}-{client.span_id.hex()}-01"
    assert (client.trace_id, client.parent_span_id, server.parent_span_id) == (server.trace_id, server.span_id, b"")
    assert (server.name, client.name) == ("POST /v1/things/**", "POST")
    request_id = answer.headers["x-request-id"]
    assert attributes_of(server) == {
        "http.request.method": "POST",
        "http.route": "/v1/things/**",
        "http.response.status_code": 200,
        "url.path": "/v1/things/7",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "gateway.endpoint": "things",
        "gateway.plan": account.plan.terms.name,
        "gateway.outcome": "succeeded",
        "gateway.credits": 1,
        "gateway.request_id": request_id,
    }
    assert attributes_of(client) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "gateway.upstream": "main",
    }
    times = [server.start_time_unix_nano, client.start_time_unix_nano]
    times += [client.end_time_unix_nano, server.end_time_unix_nano]
    assert before - 1_000_000 <= times[0]
    assert times == sorted(times)
    assert collector[0].services == {"metering"}
    assert not any(secret in body for body in collector[0].bodies for secret in (b"hush", account.key.encode()))


async def test_trusted_proxys_trace_continues_if_it_is_sampled(traced: Any, collector: tuple[Collector, str]) -> None:
    async with traced(sample_ratio="0") as data_plane:
        account = await data_plane.create_account()
        await data_plane.get(account, traceparent=f"{PARENT}-01")
        sent = data_plane.upstream.exchanges[-1]["traceparent"]
        await data_plane.get(account, traceparent=f"{PARENT}-00")
        await data_plane.get(account)  # its trace begins here
    ((server, client),) = collector[0].pairs()
    assert client is not None
    assert f"00-{server.trace_id.hex()}-{server.parent_span_id.hex()}" == PARENT
    assert sent == f"00-{server.trace_id.hex()}-{client.span_id.hex()}-01"


async def test_spans_of_failures_and_refusals_hold_their_error(traced: Any, collector: tuple[Collector, str]) -> None:
    async with traced(sample_ratio="1") as data_plane:
        account = await data_plane.create_account()
        assert (await data_plane.get(account, "/v1/nobody")).status_code == 502
        assert (await data_plane.http.get("/v1/things/1", headers={"x-api-key": "nonsense"})).status_code == 401
        assert (await data_plane.http.get("/no/such/path/hush")).status_code == 404
    (unreachable, exchange), (stranger, _), (nowhere, _) = collector[0].pairs()
    assert exchange is not None
    assert (
        attributes_of(exchange)["error.type"] == attributes_of(unreachable)["gateway.outcome"] == "upstream_unreachable"
    )
    assert attributes_of(unreachable)["error.type"] == "502"
    assert [span.status.code for span in (unreachable, exchange, stranger)] == [2, 2, 0]
    assert (stranger.name, attributes_of(stranger)["gateway.code"]) == ("GET /v1/things/**", "invalid_key")
    assert (nowhere.name, attributes_of(nowhere)["gateway.code"]) == ("GET", "route_not_found")
    assert not any(b"hush" in body for body in collector[0].bodies)


async def test_sample_ratio_of_own_traces_is_recorded(traced: Any, collector: tuple[Collector, str]) -> None:
    async with traced(sample_ratio="0.5") as data_plane:
        account = await data_plane.create_account(credits=200)
        for _ in range(60):
            await data_plane.get(account)
    assert 5 < len(collector[0].pairs()) < 55  # either bound is missed once in 10^11 runs


async def test_collector_outage_fails_no_call_and_delays_no_shutdown(traced: Any) -> None:
    async with traced(sample_ratio="1", endpoint="http://127.0.0.1:9") as data_plane:
        assert (await data_plane.get(await data_plane.create_account())).status_code == 200
        began = time.monotonic()
    assert time.monotonic() - began < 4.5  # an export alone may take 5 s


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("{sample_ratio: 0.5}", "tracing.endpoint"),
        ("{endpoint: collector}", "tracing.endpoint"),
        ("{endpoint: 'http://c', sample_ratio: 1.5}", "tracing.sample_ratio"),
        ("{endpoint: 'http://c', ratio: 1}", "tracing.ratio"),
    ],
)
def test_configuration_mistake_is_named(written: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        _loaded(tmp_path, written)


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.config.model.find_spec", lambda name: None)  # noqa: ARG005 - as it is called
    with pytest.raises(ConfigError, match=r"pip install 'metering-gateway\[tracing\]'"):
        _loaded(tmp_path, "{endpoint: 'http://c'}")


def _loaded(tmp_path: Path, written: str) -> None:
    (tmp_path / "gateway.yaml").write_text(f"tracing: {written}\n", "utf-8")
    load(tmp_path / "gateway.yaml", {}, persist_secrets=False)
