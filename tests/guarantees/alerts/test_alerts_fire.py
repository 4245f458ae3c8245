"""Each alert fires on its fault in a scaled-out installation and clears after it, as a real Prometheus sees it.

Every duration of the rules is a thirtieth (`SHORTENED`); other thresholds are those of the rules.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import resource
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from secrets import token_bytes
from uuid import UUID

import asyncpg
import httpx
import psutil
import pytest
import yaml
from redis.asyncio import Redis

from gateway.clock import now
from gateway.embedded.endpoints import choose
from gateway.embedded.valkey import Valkey
from gateway.meter.keys import partition_keys
from gateway.meter.layout import PUBLISHED_FIELD
from gateway.proxy.settle.spool import frame
from policies.access.keys import ENTROPY_BYTES, compose
from tests.guarantees.alerts.scraped_site import PROMETHEUS, SHORTENED, STRIPE_SECRET, Site, calling, scraped
from tests.guarantees.chaos.conftest import measured
from tests.guarantees.chaos.rolling import ROOT
from tests.proxy.upstream import Exchange
from tests.support.sampling import IS_FULL

SPOOLED_CALLS = 5
CLEARED_SECONDS = 3 * 3600 / SHORTENED + 60  # the longest window, and what a slow machine needs
CLOSED_PORT = 1
REFUSE = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$"
REFUSE_EXPIRY = """
    CREATE TRIGGER refuse BEFORE INSERT ON credit_ledger FOR EACH ROW WHEN (NEW.kind = 'expiry')
    EXECUTE FUNCTION refuse()
"""
MARK_AN_HOUR = "INSERT INTO usage_sink_changes (hour) VALUES (date_trunc('hour', now()) - interval '5 hours')"
EXPIRE = """
    UPDATE credit_grants SET effective_at = now() - interval '1 day', expires_at = now() - interval '1 minute'
     WHERE user_id = $1
"""

Fault = Callable[[Site], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def repeated(action: Callable[[], object], seconds: float) -> AsyncIterator[None]:
    """Does it again and again for the time of the block."""

    async def repeat() -> None:
        while True:
            done = action()
            if asyncio.iscoroutine(done):
                await done
            await asyncio.sleep(seconds)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def sql(site: Site, *statements: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(site.postgresql.url)
    try:
        for each in statements:
            await connection.execute(each)
        yield connection
    finally:
        await connection.close()


async def restarted(site: Site) -> None:
    """The worker's process died and is there again."""
    (child,) = site.children(site.worker)
    child.kill()
    async with asyncio.timeout(60):
        while not (found := site.children(site.worker)) or found[0].pid == child.pid:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def published(site: Site) -> None:
    """Redis has been told of all changes, and has the mark of that: it is written after the commit."""
    async with sql(site) as connection, Redis.from_url(site.places["GATEWAY_REDIS__URL"]) as redis:

        async def is_behind() -> bool:
            if await connection.fetchval("SELECT count(*) FROM outbox"):
                return True
            marks = await connection.fetch("SELECT partition, published FROM meter_epochs")
            found = [await redis.hget(partition_keys(mark["partition"]).catalogue, PUBLISHED_FIELD) for mark in marks]
            return any(int(each or 0) < mark["published"] for each, mark in zip(found, marks, strict=True))

        async with asyncio.timeout(60):
            while await is_behind():  # noqa: ASYNC110 - of other processes
                await asyncio.sleep(0.1)


@asynccontextmanager
async def archive_folder_is_a_file(site: Site) -> AsyncIterator[None]:
    path = site.folder / "archive"
    if path.exists():
        path.rmdir()
    path.write_text("")
    await restarted(site)  # else it would notice within an hour
    yield
    path.unlink()
    path.mkdir()


@asynccontextmanager
async def sink_folder_is_a_file(site: Site) -> AsyncIterator[None]:
    path = site.folder / "sink"
    if path.exists():
        shutil.rmtree(path)
    path.write_text("")
    async with sql(site, MARK_AN_HOUR):
        await restarted(site)  # else it would notice within a minute
        yield
    path.unlink()


@asynccontextmanager
async def admin_is_down(site: Site) -> AsyncIterator[None]:
    await site.admin.stop()
    yield
    await site.admin.start()


@asynccontextmanager
async def worker_is_down(site: Site) -> AsyncIterator[None]:
    await site.worker.stop()
    yield
    await site.worker.start()


@asynccontextmanager
async def proxy_is_frozen(site: Site) -> AsyncIterator[None]:
    child = next(each for each in site.children(site.proxies[0]) if "proxy" in each.cmdline())
    child.suspend()
    yield
    child.resume()


@asynccontextmanager
async def proxy_dies_again_and_again(site: Site) -> AsyncIterator[None]:
    def kill() -> None:
        with suppress(psutil.NoSuchProcess):
            for child in site.children(site.proxies[1]):
                child.kill()

    async with repeated(kill, 2.0):
        yield


@asynccontextmanager
async def configuration_is_invalid(site: Site) -> AsyncIterator[None]:
    path = site.folder / "gateway.yaml"
    valid = path.read_text()
    path.write_text("rooutes: []")
    assert site.admin.process is not None
    site.admin.process.send_signal(signal.SIGHUP)
    yield
    path.write_text(valid)


@asynccontextmanager
async def upstream_fails(site: Site) -> AsyncIterator[None]:
    site.upstream.respond_with(500)
    yield
    site.upstream.respond_with(200)


@asynccontextmanager
async def redis_is_frozen(site: Site) -> AsyncIterator[None]:
    site.wires["redis"].freeze()
    yield
    site.wires["redis"].thaw()


@asynccontextmanager
async def postgresql_is_frozen(site: Site) -> AsyncIterator[None]:
    """Calls come of a key that no process knows."""
    site.wires["postgres"].freeze()
    unknown = compose("gw", token_bytes(ENTROPY_BYTES)).secret
    async with repeated(lambda: site.get(key=unknown), 0.3):
        yield
    site.wires["postgres"].thaw()


@asynccontextmanager
async def redis_is_slow(site: Site) -> AsyncIterator[None]:
    site.wires["redis"].replies.delay_seconds = lambda: 0.15
    yield
    site.wires["redis"].replies.delay_seconds = lambda: 0.0


@asynccontextmanager
async def upstream_is_down(site: Site) -> AsyncIterator[None]:
    port = site.wires["upstream"]._target[1]
    site.wires["upstream"].lead_to(CLOSED_PORT)
    yield
    site.wires["upstream"].lead_to(port)


@asynccontextmanager
async def somebody_guesses(site: Site) -> AsyncIterator[None]:
    async with (
        httpx.AsyncClient(base_url=site.admin_url, headers={"authorization": "Bearer wrong"}) as client,
        repeated(lambda: client.get("/admin/v1/plans"), 0.1),
    ):
        yield


@asynccontextmanager
async def usage_table_is_locked(site: Site) -> AsyncIterator[None]:
    async with sql(site) as connection, connection.transaction():
        await connection.execute("LOCK TABLE usage_tracking IN SHARE MODE")
        yield


@asynccontextmanager
async def postgresql_refuses_a_row(site: Site) -> AsyncIterator[None]:
    async with sql(site, "ALTER TABLE usage_tracking ADD CONSTRAINT odd CHECK (path <> '/v1/odd') NOT VALID"):
        await site.get("/v1/odd")
        yield
    async with sql(site, "ALTER TABLE usage_tracking DROP CONSTRAINT odd"):
        pass


@asynccontextmanager
async def redis_leaves_calls_under_way(site: Site) -> AsyncIterator[None]:
    """Calls that were admitted end while Redis is away."""
    begun, may_end = asyncio.Semaphore(0), asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        begun.release()
        await may_end.wait()
        await exchange.reply()

    site.upstream.answer = answer
    calls = [asyncio.create_task(site.get()) for _ in range(SPOOLED_CALLS)]
    for _ in calls:
        await asyncio.wait_for(begun.acquire(), 30)
    site.wires["redis"].freeze()
    may_end.set()
    site.upstream.respond_with(200)
    yield
    site.wires["redis"].thaw()
    await asyncio.gather(*calls)


@asynccontextmanager
async def disk_is_full(site: Site) -> AsyncIterator[None]:
    """No file of the proxies may be written, as long as Redis takes no settlement either."""
    processes = [child for proxy in site.proxies for child in site.children(proxy)]
    before = [child.rlimit(resource.RLIMIT_FSIZE) for child in processes]
    for child in processes:
        child.rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    async with redis_leaves_calls_under_way(site):
        yield
    for child, limits in zip(processes, before, strict=True):
        child.rlimit(resource.RLIMIT_FSIZE, limits)


@asynccontextmanager
async def newer_release_left_a_spool(site: Site) -> AsyncIterator[None]:
    path = site.folder / "data" / "spool" / "newer.spool2"
    path.write_bytes(frame(b'{"version": 1000}'))
    yield
    path.unlink()


@asynccontextmanager
async def postgresql_is_restored(site: Site) -> AsyncIterator[None]:
    copy = await site.postgresql.back_up()
    await site.command("credits", "grant", "--user", site.user, "--amount", "5", "--reason", "test")
    await published(site)
    await site.postgresql.restore(copy)
    yield


@asynccontextmanager
async def balance_is_changed_by_hand(site: Site) -> AsyncIterator[None]:
    async with sql(site, "UPDATE user_credits SET current_credits = current_credits + 7"):
        await restarted(site)  # books are compared at the start and at night
        yield
    async with sql(site, "UPDATE user_credits SET current_credits = current_credits - 7"):
        await restarted(site)


@asynccontextmanager
async def credits_cannot_expire(site: Site) -> AsyncIterator[None]:
    user = (await site.command("users", "create", "--email", "bob@example.com", "--plan", "open", "--json"))["id"]
    await site.command("credits", "grant", "--user", user, "--amount", "5", "--reason", "test")
    async with sql(site, REFUSE, REFUSE_EXPIRY) as connection:
        await connection.execute(EXPIRE, UUID(user))
        yield
    async with sql(site, "DROP TRIGGER refuse ON credit_ledger"):
        pass


@asynccontextmanager
async def stripe_is_down(site: Site) -> AsyncIterator[None]:
    port = site.wires["stripe"]._target[1]
    site.wires["stripe"].lead_to(CLOSED_PORT)
    event = {
        "id": "evt_1",
        "object": "event",
        "type": "customer.subscription.updated",
        "livemode": False,
        "created": int(now().timestamp()),
        "data": {"object": {"id": "sub_1", "object": "subscription", "metadata": {}}},
    }
    body, time = json.dumps(event).encode(), int(now().timestamp())
    signature = hmac.new(STRIPE_SECRET.encode(), f"{time}.".encode() + body, hashlib.sha256).hexdigest()
    async with httpx.AsyncClient(base_url=site.public[0], timeout=30) as client:
        headers = {"stripe-signature": f"t={time},v1={signature}"}
        (await client.post("/webhooks/stripe", content=body, headers=headers)).raise_for_status()
    yield
    site.wires["stripe"].lead_to(port)


@asynccontextmanager
async def upstream_reports_no_usage(site: Site) -> AsyncIterator[None]:
    async with repeated(lambda: site.get("/v2/x"), 0.3):
        yield


@asynccontextmanager
async def upstream_reports_more_than_the_maximum(site: Site) -> AsyncIterator[None]:
    site.upstream.respond_with(200, b'{"items": 3}')
    async with repeated(lambda: site.get("/v2/x"), 0.3):
        yield
    site.upstream.respond_with(200)


# What takes longest to clear comes first; a row that was refused leaves the books apart, so they are compared before.
FAULTS: dict[str, dict[str, Fault]] = {
    "records": {
        "GatewayUsageNotArchived": archive_folder_is_a_file,
        "GatewayUsageSinkLags": sink_folder_is_a_file,
        "GatewayBooksDisagree": balance_is_changed_by_hand,
        "GatewayNewerRecordsWait": newer_release_left_a_spool,
        "GatewaySettlementsLost": disk_is_full,
        "GatewayStoreWentBack": postgresql_is_restored,
        "GatewayPaymentEventsFail": stripe_is_down,
        "GatewayJournalEntryRefused": postgresql_refuses_a_row,
        "GatewayAccountsSetAside": credits_cannot_expire,
    },
    "processes": {
        "GatewayReloadRefused": configuration_is_invalid,
        "GatewayProcessesDie": proxy_dies_again_and_again,
        "GatewayNotScraped": admin_is_down,
        "GatewayNoWorker": worker_is_down,
        "GatewayProcessNotReady": proxy_is_frozen,
        "GatewaySignInsFail": somebody_guesses,
    },
    "calls": {
        "GatewayUpstreamDown": upstream_is_down,
        "GatewayAnswersWithErrors": upstream_fails,
        "GatewayCannotMeter": redis_is_frozen,
        "GatewayCannotReadAccounts": postgresql_is_frozen,
        "GatewaySpoolGrows": redis_leaves_calls_under_way,
        "GatewayIsSlow": redis_is_slow,
        "GatewayUsageMissing": upstream_reports_no_usage,
        "GatewayChargesCut": upstream_reports_more_than_the_maximum,
        "GatewayJournalLags": usage_table_is_locked,
    },
}


@pytest.fixture
async def redis_url(tmp_path: Path) -> AsyncIterator[str]:
    folder = tmp_path / "valkey"
    folder.mkdir()
    server, endpoint = Valkey(folder, durable=True), choose(None).valkey
    await server.start(endpoint)
    yield f"redis://:{endpoint.password}@127.0.0.1:{endpoint.port}/0"
    await server.stop()


def test_every_alert_has_a_fault() -> None:
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    assert {alert for faults in FAULTS.values() for alert in faults} == {
        rule["alert"] for group in groups for rule in group["rules"]
    }


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.skipif(not IS_FULL, reason="takes up to eight minutes each; GATEWAY_TEST_SCALE=full")
@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")
async def test_alerts_fire_on_their_faults_and_clear(
    kind: str, tmp_path: Path, own_database_url: str, redis_url: str
) -> None:
    silent: list[str] = []
    async with scraped(tmp_path, database_url=own_database_url, redis_url=redis_url) as site, calling(site):
        await asyncio.sleep(10)
        assert await site.prometheus.firing() == set()
        for alert, fault in FAULTS[kind].items():
            async with fault(site):
                try:
                    seconds = await site.prometheus.fires(alert)
                    print(f"{alert} fires after {seconds:.0f} s on {fault.__name__}")  # noqa: T201 - shown at a failure
                    measured.append(f"{alert} fires after {seconds:.0f} s: {_words(fault)}")
                except TimeoutError:
                    silent.append(alert)
                    print(f"{alert} is silent on {fault.__name__}")  # noqa: T201
        async with asyncio.timeout(CLEARED_SECONDS):
            while left := await site.prometheus.firing():
                print(f"still firing: {sorted(left)}")  # noqa: T201
                await asyncio.sleep(5)
    assert silent == []
    measured.append(f"the alerts of {kind} have cleared")


def _words(fault: Fault) -> str:
    return re.sub("_", " ", fault.__name__)
