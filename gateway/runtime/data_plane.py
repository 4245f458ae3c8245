"""Puts the proxy together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from secrets import token_hex
from typing import TYPE_CHECKING

import structlog

from gateway.config import Config, ConfigError
from gateway.config.model import Tracing
from gateway.meter.holds import Holds
from gateway.meter.meter import Meter
from gateway.metrics import MetricsFlusher
from gateway.proxy.admission.account_loader import Warming
from gateway.proxy.admission.controller import Gate
from gateway.proxy.admission.epoch_register import LedgerRegister
from gateway.proxy.admission.outage_credit import Float
from gateway.proxy.admission.principals import Principals
from gateway.proxy.handler import Handler
from gateway.proxy.router import Router
from gateway.proxy.settle.settlement import Settler
from gateway.proxy.settle.spool import Spool
from gateway.proxy.telemetry.access_log import AccessLog
from gateway.proxy.telemetry.request_telemetry import Tally
from gateway.runtime.store_connections import open_stores
from gateway.runtime.upstreams import destinations
from gateway.workers.runner import Runner
from gateway.workers.upstream_watch import UpstreamWatch
from gateway.workers.usage.epoch_watch import EpochWatch
from gateway.workers.usage.heartbeat import Heartbeat

if TYPE_CHECKING:
    from gateway.proxy.telemetry.tracing import Traces

# A principal is read anew this often although its version says nothing changed, so that a lost announcement heals.
PRINCIPAL_MAX_AGE_SECONDS = 60.0
_log = structlog.get_logger()


@asynccontextmanager
async def data_plane(config: Config) -> AsyncIterator[Handler]:
    """The proxy. Leaves when every admitted call has been settled, or Redis does not take the last ones."""
    async with open_stores(config, timeout_seconds=config.redis.timeout_seconds) as (database, link):
        owner = f"proxy-{token_hex(6)}"
        meter = Meter(link, partitions=config.redis.partitions, owner=owner, register=LedgerRegister(database))
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
        floating, access_log, traces = Float(config.redis.outage_credits), AccessLog(), traces_of(config.tracing)
        settler = Settler(meter, Spool(config.data_dir / "spool", owner), floating)
        tally = Tally(database, access_log, traces)
        handler = Handler(
            Router(config.routes),
            destinations(config),
            principals=principals,
            gate=Gate(
                principals,
                meter,
                Warming(link, meter, database),
                owe=settler.owe,
                grace=grace,
                floating=floating,
            ),
            settler=settler,
            tally=tally,
            trusted_proxies=config.server.trusted_proxies,
        )
        heartbeat = Heartbeat(Holds(link, config.redis.partitions), owner)
        await heartbeat.run_once()
        async with settler:
            watches = (EpochWatch(meter), UpstreamWatch(lambda: handler.upstreams))
            async with Runner(heartbeat, *watches, settler, tally, MetricsFlusher()):
                yield handler
            await handler.close()
        access_log.close()
        if traces is not None:
            await asyncio.to_thread(traces.close)


def traces_of(tracing: Tracing | None) -> Traces | None:
    """None where they are not configured; the library is an extra."""
    if tracing is None:
        return None
    from gateway.proxy.telemetry.tracing import Traces

    return Traces(tracing.endpoint, sample_ratio=float(tracing.sample_ratio), service_name=tracing.service_name)


def reload(handler: Handler, read_again: Callable[[], Config]) -> None:
    """Routes and upstreams as the file now has them; calls under way finish on the upstreams they began with."""
    try:
        config = read_again()
    except ConfigError as error:
        _log.error("the new configuration is refused, the old one stays", problems=str(error))
        return
    for destination in handler.swap(Router(config.routes), destinations(config)).values():
        destination.upstream.retire()
    _log.info("the configuration was reloaded", routes=len(config.routes), upstreams=len(config.upstreams))
