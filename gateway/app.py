"""The composition root: one Config in, running roles out. Nothing else constructs collaborators."""

from __future__ import annotations

import gc
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import cache
from importlib.metadata import version
from secrets import token_bytes, token_hex
from typing import Any

import structlog
import uvicorn

from gateway import logs, metrics
from gateway.config import Config, ConfigError
from gateway.config import Upstream as UpstreamConfig
from gateway.ledger.session import Database, DatabaseUnavailable
from gateway.meter.audit import Audit
from gateway.meter.holds import Holds
from gateway.meter.journal import Journal
from gateway.meter.link import Link, MeterUnavailable
from gateway.meter.meter import SCRIPTS, Meter
from gateway.metrics import BufferedCounter, BufferedHistogram, MetricsFlusher
from gateway.processes.child import Server, serve
from gateway.processes.serving import Role
from gateway.proxy.access_log import AccessLog
from gateway.proxy.forwarding import Destination
from gateway.proxy.gate import Gate
from gateway.proxy.handler import Handler
from gateway.proxy.principals import Principals
from gateway.proxy.router import Router
from gateway.proxy.server import Limits, configure
from gateway.proxy.settlement import Settler
from gateway.proxy.spool import Spool
from gateway.proxy.tally import Tally
from gateway.upstream.balancer import Probing, Upstream, tls_context
from gateway.workers.heartbeat import Heartbeat
from gateway.workers.hold_sweeper import HoldSweeper
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.partitions import PartitionKeeper
from gateway.workers.reconcile import NightlyReconciliation, Reconciler
from gateway.workers.retention import Retention
from gateway.workers.runner import Runner, Worker
from gateway.workers.upstream_watch import UpstreamWatch
from gateway.workers.usage_writer import UsageWriter
from policies.model import Outcome

# A principal is read anew this often although its version says nothing changed, so that a lost announcement heals.
PRINCIPAL_MAX_AGE_SECONDS = 60.0
# The control plane and the workers have nobody waiting in line behind them.
BACKGROUND_TIMEOUT_SECONDS = 5.0
# nginx's keepalive_timeout: uvicorn's own 5 s would close idle connections under a client that is about to use them.
KEEP_ALIVE_SECONDS = 75
_log = structlog.get_logger()


async def run_child(
    config: Config, roles: Sequence[Role], *, line: int | None, listen: Sequence[int], read_again: Callable[[], Config]
) -> None:
    """One process: opens its roles on the inherited sockets, serves until told to stop, closes them."""
    logs.configure(role="-".join(roles))
    sockets = [socket.socket(fileno=fd) for fd in listen]
    servers: list[tuple[Server, list[socket.socket]]] = []
    reload: Callable[[], None] | None = None
    async with AsyncExitStack() as stack:
        if Role.PROXY in roles:
            handler = await stack.enter_async_context(data_plane(config))
            servers.append((_public_server(handler, config), [sockets.pop(0)]))

            def reload() -> None:
                _reload(handler, read_again)

        if Role.ADMIN in roles:
            admin = await stack.enter_async_context(control_plane(config))
            servers.append((_server(admin, config), [sockets.pop(0)]))
        if Role.WORKER in roles:
            await stack.enter_async_context(background(config))
        if Role.UPSTREAM in roles:
            from gateway.demo.app import build as build_demo_upstream

            servers.append((_server(build_demo_upstream(), config), [sockets.pop(0)]))
        tune_garbage_collection()
        await serve(servers, line=line, reload=reload)


def tune_garbage_collection() -> None:
    """Reference counts free what a request made; cycles are rare, so looking for them can wait.

    What start-up made stays for good and is looked at no more. With Python's own thresholds, a look every 700 objects
    and a full one every 70,000, forwarding cost 5 to 8 µs of CPU more per request (`benchmarks/forwarding_cost.py`).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@asynccontextmanager
async def data_plane(config: Config) -> AsyncIterator[Handler]:
    """The proxy. Leaves when every admitted call has been settled, or Redis does not take the last ones."""
    async with _stores(config, timeout_seconds=config.redis.timeout_seconds) as (database, link):
        owner = f"proxy-{token_hex(6)}"
        meter = Meter(link, partitions=config.redis.partitions, owner=owner)
        principals = Principals(
            database,
            meter,
            prefix=config.keys.prefix,
            peppers=config.secrets.peppers,
            max_entries=config.principals.max_entries,
            max_age_seconds=PRINCIPAL_MAX_AGE_SECONDS,
            max_stale_seconds=config.principals.max_stale_seconds,
        )
        grace = timedelta(seconds=config.billing.past_due_grace_seconds)
        settler, access_log = Settler(meter, Spool(config.data_dir / "spool", owner)), AccessLog()
        tally = Tally(database, access_log)
        handler = Handler(
            Router(config.routes),
            _destinations(config),
            principals=principals,
            gate=Gate(principals, meter, database, grace=grace),
            settler=settler,
            tally=tally,
            trusted_proxies=config.server.trusted_proxies,
        )
        heartbeat = Heartbeat(Holds(link, config.redis.partitions), owner)
        await heartbeat.run_once()
        async with settler:
            async with Runner(heartbeat, settler, tally, UpstreamWatch(lambda: handler.upstreams), MetricsFlusher()):
                yield handler
            await handler.close()
        access_log.close()


@asynccontextmanager
async def control_plane(config: Config) -> AsyncIterator[Any]:
    """The admin API. Imported here because FastAPI takes 0.4 s to import, which no public worker need wait for."""
    from gateway.api.admin import build_admin

    async with _stores(config, timeout_seconds=BACKGROUND_TIMEOUT_SECONDS) as (database, link):
        meter = Meter(link, partitions=config.redis.partitions, owner="admin")
        yield build_admin(
            database=database,
            publish=OutboxPublisher(database, meter).publish_all,
            admin_token=config.secrets.admin_token,
            key_prefix=config.keys.prefix,
            peppers=config.secrets.peppers,
            entropy=token_bytes,
            metrics_text=metrics.exposition,
            readiness=lambda: _missing(database, link),
        )


@asynccontextmanager
async def background(config: Config) -> AsyncIterator[None]:
    """The workers that everything relies on."""
    metrics.BUILD_INFO.labels(version("metering-gateway")).set(1)
    async with _stores(config, timeout_seconds=BACKGROUND_TIMEOUT_SECONDS) as (database, link):
        partitions = config.redis.partitions
        meter = Meter(link, partitions=partitions, owner="worker")
        workers: tuple[Worker, ...] = (
            UsageWriter(database, Journal(link, partitions)),
            HoldSweeper(meter, Holds(link, partitions)),
            OutboxPublisher(database, meter),
            PartitionKeeper(database),
            MetricsFlusher(),
            NightlyReconciliation(Reconciler(database, Audit(link, meter))),
            *_retention(config, database, link),
        )
        async with Runner(*workers):
            yield


def _retention(config: Config, database: Database, link: Link) -> tuple[Retention, ...]:
    months = config.usage.keep_months
    journal = Journal(link, config.redis.partitions)
    return () if months is None else (Retention(database, journal, keep_months=months),)


@asynccontextmanager
async def _stores(config: Config, *, timeout_seconds: float) -> AsyncIterator[tuple[Database, Link]]:
    database = Database(config.database.url, pool_size=config.database.pool_size)
    link = Link(config.redis.url, timeout_seconds=timeout_seconds, scripts=SCRIPTS)
    try:
        await link.open()
        yield database, link
    finally:
        await link.close()
        await database.close()


async def _missing(database: Database, link: Link) -> dict[str, str]:
    """What keeps requests from being admitted, by name; empty when nothing does."""
    missing = {}
    try:
        await database.ping()
    except DatabaseUnavailable as error:
        missing["database"] = str(error)
    try:
        await link.call((b"PING",))
    except MeterUnavailable as error:
        missing["redis"] = str(error)
    return missing


def _destinations(config: Config) -> dict[str, Destination]:
    return {each.name: _destination(each) for each in config.upstreams}


def _destination(each: UpstreamConfig) -> Destination:
    upstream = Upstream(
        each.name,
        targets=each.targets,
        connect_timeout_seconds=each.connect_timeout_seconds,
        first_byte_timeout_seconds=each.first_byte_timeout_seconds,
        idle_timeout_seconds=each.idle_timeout_seconds,
        total_timeout_seconds=each.total_timeout_seconds,
        max_connections=each.max_connections,
        queue_timeout_seconds=each.queue_timeout_seconds,
        retries=each.retries,
        tls=None if each.ca_file is None else tls_context(each.ca_file),
        probing=None if each.health is None else Probing(each.health.path.encode(), each.health.interval_seconds),
        observer=_upstream_series(each.name),
    )
    lines = [f"{name}: {value}\r\n" for name, value in each.headers.items()]
    return Destination(upstream, "".join(lines).encode("latin-1"), tuple(name.encode() for name in each.headers))


def _reload(handler: Handler, read_again: Callable[[], Config]) -> None:
    """Routes and upstreams as the file now has them; calls under way finish on the upstreams they began with."""
    try:
        config = read_again()
    except ConfigError as error:
        _log.error("the new configuration is refused, the old one stays", problems=str(error))
        return
    for destination in handler.swap(Router(config.routes), _destinations(config)).values():
        destination.upstream.retire()


class _UpstreamSeries:
    """Counts what one upstream does, per attempt."""

    def __init__(self, upstream: str) -> None:
        requests = metrics.UPSTREAM_REQUESTS
        self._ended = {each: BufferedCounter(requests.labels(upstream, each)) for each in Outcome}
        self._duration = BufferedHistogram(metrics.UPSTREAM_DURATION.labels(upstream), metrics.SECONDS)

    def attempt_ended(self, upstream: str, outcome: Outcome, *, duration_seconds: float) -> None:  # noqa: ARG002 - ours
        self._ended[outcome].inc()
        self._duration.observe(duration_seconds)

    def attempt_retried(self, upstream: str, reason: str) -> None:
        metrics.UPSTREAM_RETRIES.labels(upstream, reason).inc()

    def target_ejected(self, upstream: str) -> None:
        metrics.UPSTREAM_EJECTIONS.labels(upstream).inc()


@cache
def _upstream_series(upstream: str) -> _UpstreamSeries:
    """One for each name, however often the configuration is read again."""
    return _UpstreamSeries(upstream)


def _public_server(app: Any, config: Config) -> Server:
    server = config.server
    limits = Limits(
        max_header_bytes=server.max_header_bytes,
        header_timeout_seconds=server.header_timeout_seconds,
        body_idle_timeout_seconds=server.body_idle_timeout_seconds,
    )
    return Server(configure(app, limits, drain_timeout_seconds=server.drain_timeout_seconds))


def _server(app: Any, config: Config) -> Server:
    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            proxy_headers=False,  # uvicorn would believe X-Forwarded-For of anyone on this machine
            timeout_graceful_shutdown=max(1, round(config.server.drain_timeout_seconds)),
        )
    )
