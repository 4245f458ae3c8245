"""Builds the data plane: the proxy with its stores and background workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING

from gateway.config import Config, Log
from gateway.config.model import Tracing
from gateway.ledger.db.session import Database
from gateway.meter.client.client import RedisClient
from gateway.meter.holds import Holds
from gateway.meter.idempotency import StorageLimits
from gateway.meter.meter import Meter
from gateway.proxy.admission.account_loader import AccountLoader
from gateway.proxy.admission.controller import AdmissionController
from gateway.proxy.admission.outage_credit import OutageCredit
from gateway.proxy.admission.principal_cache import PrincipalCache
from gateway.proxy.handler import Handler
from gateway.proxy.request.api_keys import KeyForm
from gateway.proxy.request.held_bodies import HeldBodies
from gateway.proxy.router import Router
from gateway.proxy.settle.settlement import Settler
from gateway.proxy.settle.spool import Spool
from gateway.proxy.telemetry.access_log import AccessLog
from gateway.proxy.telemetry.request_lines import NoRequestLines, RequestLines
from gateway.proxy.telemetry.request_telemetry import Lines, RequestTelemetry
from gateway.runtime.health.readiness import Readiness, probe_of_proxy
from gateway.runtime.store_connections import open_stores
from gateway.runtime.upstreams import destinations
from gateway.workers.runner import Runner
from gateway.workers.upstream_watch import UpstreamWatch
from gateway.workers.usage.liveness import EpochWatch, Heartbeat
from gateway.workers.usage.store_watch import PostgresEpochRegister, StoreWatch

if TYPE_CHECKING:
    from gateway.proxy.telemetry.tracing import OpenTelemetryRecorder

# A principal is refreshed this often although its version has not changed, in case a publication was lost.
PRINCIPAL_MAX_AGE_SECONDS = 60.0


@asynccontextmanager
async def data_plane(config: Config, readiness: Readiness | None = None) -> AsyncIterator[Handler]:
    """The proxy, whose probe joins `readiness`.

    On exit every admitted call is settled, or spooled where Redis does not accept its settlement.
    """
    async with open_stores(config, timeout_seconds=config.redis.timeout_seconds) as (database, redis_client):
        owner = f"proxy-{token_hex(6)}"
        meter = _meter(config, redis_client, database, owner=owner)
        principals = PrincipalCache(
            database,
            meter,
            prefix=config.keys.prefix,
            peppers=config.secrets.peppers,
            max_entries=config.principals.max_entries,
            max_age_seconds=PRINCIPAL_MAX_AGE_SECONDS,
            max_stale_seconds=config.principals.max_stale_seconds,
        )
        meter.on_epochs_changed(principals.expire)
        grace = timedelta(seconds=config.billing.past_due_grace_seconds)
        outage_credit, access_log = OutageCredit(config.redis.outage_credits), AccessLog(form=config.log.format)
        span_recorder = build_span_recorder(config.tracing)
        settler = Settler(meter, Spool(config.data_dir / "spool", owner), outage_credit)
        telemetry = RequestTelemetry(database, access_log, span_recorder, lines=request_lines(config.log, access_log))
        handler = Handler(
            router_of(config),
            destinations(config),
            principals=principals,
            admission=AdmissionController(
                principals,
                meter,
                AccountLoader(redis_client, meter, database),
                enqueue_settlement=settler.enqueue,
                grace=grace,
                outage_credit=outage_credit,
                stored_for=config.idempotency.stored_for,
            ),
            settler=settler,
            telemetry=telemetry,
            held_bodies=HeldBodies(config.server.max_held_body_bytes),
            trusted_proxies=config.server.trusted_proxies,
            key_form=key_form(config),
        )
        heartbeat = Heartbeat(Holds(redis_client, config.redis.partitions), owner)
        await heartbeat.run_once()
        await meter.enter_epochs()
        if readiness is not None:
            needs_redis = config.redis.outage_credits is None
            readiness.add(probe_of_proxy(database, meter, principals, needs_redis=needs_redis))
        async with settler:
            watches = (EpochWatch(meter), StoreWatch(meter), UpstreamWatch(lambda: handler.upstreams))
            async with Runner(heartbeat, *watches, settler, telemetry):
                yield handler
            await handler.close()
        access_log.close()
        if span_recorder is not None:
            await asyncio.to_thread(span_recorder.close)


def request_lines(log: Log, access_log: AccessLog) -> Lines | None:
    """What writes the lines of requests; None for the default lines."""
    if log.is_default_for_requests:
        return None
    if not log.has_requests:
        return NoRequestLines()
    return RequestLines(access_log, log.fields, form=log.format, successes=float(log.successes))


def _meter(config: Config, redis_client: RedisClient, database: Database, *, owner: str) -> Meter:
    return Meter(
        redis_client,
        partitions=config.redis.partitions,
        owner=owner,
        register=PostgresEpochRegister(database),
        storage=StorageLimits(config.idempotency.max_bytes_per_account, config.idempotency.max_bytes),
    )


def router_of(config: Config) -> Router:
    return Router(config.routes, key_form(config))


def key_form(config: Config) -> KeyForm:
    return KeyForm(config.keys.prefix, config.keys.query)


def build_span_recorder(tracing: Tracing | None) -> OpenTelemetryRecorder | None:
    """None where tracing is not configured. Its library is an extra, imported only here."""
    if tracing is None:
        return None
    from gateway.proxy.telemetry.tracing import OpenTelemetryRecorder

    return OpenTelemetryRecorder(
        tracing.endpoint, sample_ratio=float(tracing.sample_ratio), service_name=tracing.service_name
    )


def reload(handler: Handler, config: Config) -> None:
    """Serves by these routes and upstreams; calls under way finish on the upstreams where they began."""
    handler.telemetry.change_lines(partial(request_lines, config.log), form=config.log.format)
    for destination in handler.swap(router_of(config), destinations(config)).values():
        destination.upstream.retire()
