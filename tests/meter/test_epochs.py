"""What Redis may have lost is never served: in a new epoch accounts are cold, and gateways hand in what they know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest

from gateway.meter import epochs, recovery
from gateway.meter.admissions import Admission
from gateway.meter.client.client import RedisClient
from gateway.meter.client.errors import MeterUnavailable, NotSent
from gateway.meter.journal import Journal
from gateway.meter.meter import Meter
from gateway.meter.publications import EpochEnded
from gateway.meter.recovery import REENTER_SECONDS
from gateway.meter.replay_buffer import Settlement
from gateway.meter.replies import LoadResult, Verdict
from gateway.meter.scripts import SCRIPTS
from policies.access.limits import Limits
from policies.usage.epochs import PostgresqlMarks, number_of
from policies.usage.records import copy_line, parse_line, prefix_of, suffix_of
from tests.meter.conftest import OwnServer

LAST_ID = "99999999999999-5"  # of a clock that is far ahead
UNLIMITED = Limits((None, None, None), None)


class Count:
    """PostgreSQL, as far as the epochs need it. Whoever shares one shares a PostgreSQL."""

    def __init__(self, epochs: int = 0, last_id: str = "0-0") -> None:
        self.marks = PostgresqlMarks(epochs, "", 1, last_id, 0)

    async def read(self, partitions: Sequence[int] = (0,)) -> Mapping[int, PostgresqlMarks]:
        return dict.fromkeys(partitions, self.marks)

    @asynccontextmanager
    async def lock(self, partitions: Sequence[int]) -> AsyncIterator[Count]:  # noqa: ARG002 - as the protocol says
        yield self

    async def begin(self, epochs: Mapping[int, str]) -> None:
        if 0 in epochs:
            self.marks = self.marks._replace(epochs=number_of(epochs[0]), epoch=epochs[0])


class Slow(Count):
    """The same, as slow as it is told to be."""

    def __init__(self) -> None:
        super().__init__()
        self.may_begin = asyncio.Event()
        self.begun = 0

    @asynccontextmanager
    async def lock(self, partitions: Sequence[int]) -> AsyncIterator[Count]:  # noqa: ARG002 - as the protocol says
        self.begun += 1
        await self.may_begin.wait()
        yield self


@dataclass
class Site:
    """One partition of a server, and gateways on it."""

    redis_client: RedisClient
    account_id: UUID
    postgresql: Count = field(default_factory=Count)

    def gateway(self, register: Count | None = None) -> Meter:
        owner = f"proxy-{uuid4().hex}"
        return Meter(self.redis_client, partitions=1, owner=owner, register=register or self.postgresql)

    async def load(self, meter: Meter, balance: int = 100) -> LoadResult:
        keys = meter.keys(self.account_id)
        return await meter.load(keys, account_version=1, credit_seq=0, balance=balance, catalogue_version=1)

    async def admit(self, meter: Meter, request_id: str | None = None) -> Admission:
        request_id = request_id or str(uuid4())
        return await meter.admit(
            meter.keys(self.account_id),
            request_id=request_id,
            account_version=1,
            catalogue_version=1,
            amount=10,
            required=10,
            limits=UNLIMITED,
            prefix=self.prefix(request_id),
        )

    def prefix(self, request_id: str) -> str:
        known = {"request_id": request_id, "created_at": 1, "user_id": self.account_id}
        return prefix_of(known)

    async def replace_server(self) -> None:
        """As after a restart: what it has is there, and another run has it."""
        await self.redis_client.call((b"HSET", b"gw:{p00}:c", b"r", b"another"))

    async def journal(self) -> list[tuple[str | None, bool]]:
        entries = await self.redis_client.call((b"XRANGE", b"gw:{p00}:j", b"-", b"+"))
        return [
            (parse_line(copy_line(field, record).decode())["request_id"], bool(rest))
            for _, (field, record, *rest) in entries
        ]


@pytest.fixture
async def site(server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(epochs, "REPLAY_WINDOW_SECONDS", 0.0)
    redis_client = RedisClient(server.url.removesuffix("/0") + "/3", timeout_seconds=5, scripts=SCRIPTS)
    await redis_client.open()
    await redis_client.call((b"FLUSHDB",))
    yield Site(redis_client, uuid4())
    await redis_client.close()


async def test_epoch_of_an_emptied_server_admits_nobody_before_a_load(site: Site) -> None:
    meter = site.gateway()
    await site.load(meter)
    assert (await site.admit(meter)).verdict is Verdict.ADMITTED
    await site.redis_client.call((b"FLUSHDB",))
    assert (await site.admit(meter)).verdict is Verdict.WRONG_EPOCH
    assert (await site.admit(meter)).verdict is Verdict.NOT_LOADED


async def test_epoch_of_an_older_copy_uses_none_of_its_balances(site: Site) -> None:
    await site.load(site.gateway(), balance=1_000_000)
    await site.replace_server()
    meter = site.gateway()
    assert (await site.admit(meter)).verdict is Verdict.NOT_LOADED
    assert await meter.account_snapshot(meter.keys(site.account_id), UNLIMITED) is None
    assert await site.load(meter, balance=5) is LoadResult.LOADED
    assert (await site.admit(meter)).verdict is Verdict.INSUFFICIENT_CREDITS


async def test_epoch_loads_nothing_while_gateways_replay(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "REPLAY_WINDOW_SECONDS", 4.0)
    assert await site.load(site.gateway()) is LoadResult.LOADED, "the first epoch of all waits for nobody"
    await site.replace_server()
    meter = site.gateway()
    assert await site.load(meter) is LoadResult.EPOCH_NOT_OPEN
    assert (await site.admit(meter)).verdict is Verdict.EPOCH_NOT_OPEN
    with pytest.raises(MeterUnavailable, match="loads accounts in"):
        await meter.check_writable()
    await site.redis_client.call((b"HSET", b"gw:{p00}:c", b"o", 0))
    await meter.check_writable()
    assert (await site.admit(meter)).verdict is Verdict.NOT_LOADED
    assert await site.load(meter) is LoadResult.LOADED


async def test_call_waits_for_the_first_epoch_and_for_no_later_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "REENTER_SECONDS", REENTER_SECONDS)
    register = Slow()
    meter = site.gateway(register)
    loading = asyncio.create_task(site.load(meter))
    await asyncio.sleep(2 * REENTER_SECONDS)
    assert not loading.done()
    register.may_begin.set()
    assert await loading is LoadResult.LOADED

    register.may_begin.clear()
    await site.redis_client.call((b"FLUSHDB",))
    assert (await site.admit(meter)).verdict is Verdict.WRONG_EPOCH
    for _ in range(2):
        with pytest.raises(NotSent, match="replays what it knows"):
            await site.admit(meter)
    register.may_begin.set()
    assert await meter.check_epochs() == 1
    assert (await site.admit(meter)).verdict is Verdict.NOT_LOADED
    assert register.begun == 2, "one entering, whoever asks"


async def test_replay_restores_holds_and_journals_settlements(site: Site) -> None:
    one, other = site.gateway(), site.gateway()
    await site.load(one)
    running, settled = str(uuid4()), str(uuid4())
    for request_id in (running, settled):
        assert (await site.admit(one, request_id)).verdict is Verdict.ADMITTED
    await one.settle(Settlement(one.keys(site.account_id), settled, 4, _suffix(4)))
    await site.redis_client.call((b"FLUSHDB",))
    assert (await site.admit(other)).verdict is Verdict.NOT_LOADED
    assert await one.check_epochs() == 1
    assert await site.journal() == [(settled, True)]
    assert await site.redis_client.call((b"HKEYS", b"gw:{p00}:h")) == [running.encode()]
    await one.settle(Settlement(one.keys(site.account_id), running, 10, _suffix(10)))
    assert await site.journal() == [(settled, True), (running, False)], "it found its hold again"


async def test_replay_settles_holds_that_an_older_copy_brought_back(site: Site) -> None:
    meter = site.gateway()
    await site.load(meter)
    ended = str(uuid4())
    await site.admit(meter, ended)
    hold = await site.redis_client.call((b"HGET", b"gw:{p00}:h", ended))
    await meter.settle(Settlement(meter.keys(site.account_id), ended, 4, _suffix(4)))
    await site.redis_client.call((b"HSET", b"gw:{p00}:h", ended, hold))
    await site.redis_client.call((b"HSET", b"gw:{p00}:c", b"e", b"older", b"r", b"another"))
    assert await meter.check_epochs() == 1
    assert await site.redis_client.call((b"HLEN", b"gw:{p00}:h")) == 0


@pytest.mark.parametrize("is_noticed", [True, False])
async def test_settlement_with_its_prefix_survives_a_lost_hold(site: Site, is_noticed: bool) -> None:
    """As one that comes from a spool, by another process."""
    admission = await site.admit(site.gateway())
    meter, request_id = site.gateway(), str(uuid4())
    await site.load(meter)
    admission = await site.admit(meter, request_id)
    heir = site.gateway()
    await heir.check_epochs()
    if not is_noticed:
        await site.load(heir)
    await site.redis_client.call((b"FLUSHDB",))
    keys, prefix = heir.keys(site.account_id), site.prefix(request_id)
    for _ in range(2):
        await heir.settle(Settlement(keys, request_id, 3, _suffix(3), prefix, admission.epoch))
    assert set(await site.journal()) == {(request_id, True)}


async def test_epoch_continues_the_ids_that_postgresql_has(site: Site) -> None:
    meter = site.gateway(Count(last_id=LAST_ID))
    await site.load(meter)
    request_id = str(uuid4())
    await site.admit(meter, request_id)
    await meter.settle(Settlement(meter.keys(site.account_id), request_id, 1, _suffix(1)))
    ((entry_id, _),) = await site.redis_client.call((b"XRANGE", b"gw:{p00}:j", b"-", b"+"))
    assert entry_id == b"99999999999999-7"


async def test_journal_is_trimmed_only_in_the_epoch_in_which_it_was_read(site: Site) -> None:
    meter, journal = site.gateway(), Journal(site.redis_client, 1)
    await site.load(meter)
    request_id = str(uuid4())
    await site.admit(meter, request_id)
    await meter.settle(Settlement(meter.keys(site.account_id), request_id, 1, _suffix(1)))
    batch = (await journal.read({0: "0-0"}, 10))[0]
    await site.redis_client.call((b"HSET", b"gw:{p00}:c", b"e", b"another"))
    await journal.trim({0: batch.last_id})
    assert await journal.length() == 1
    await journal.read({0: "0-0"}, 10)
    await journal.trim({0: batch.last_id})
    assert await journal.length() == 0


async def test_epoch_does_not_begin_without_the_register(site: Site) -> None:
    class Away(Count):
        async def read(self, partitions: Sequence[int] = (0,)) -> Mapping[int, PostgresqlMarks]:  # noqa: ARG002 - so it says
            raise NotSent("PostgreSQL is out of reach")

    with pytest.raises(NotSent):
        await site.admit(site.gateway(Away()))
    assert await site.redis_client.call((b"DBSIZE",)) == 0


def _suffix(charge: int) -> str:
    known = {"outcome": "succeeded", "credits_charged": charge}
    return suffix_of(known)


async def test_server_that_was_left_is_not_served_from_when_it_comes_back(site: Site) -> None:
    """Its run id is the same; another server was in use in between."""
    meter = site.gateway()
    await site.load(meter, balance=1_000_000)
    await site.postgresql.begin({0: "2-of another server"})
    assert await meter.compare_stores() == 1
    assert (await site.admit(meter)).verdict is Verdict.NOT_LOADED
    assert number_of(site.postgresql.marks.epoch) == 3

    await site.postgresql.begin({0: "4-of another server"})
    assert (await site.admit(site.gateway())).verdict is Verdict.NOT_LOADED, "as at the start or a reconnection"


@pytest.mark.parametrize(
    "lost", [{"catalogue_version": 0}, {"last_id": "0-0"}, {"published": 0}, {"epochs": 0, "epoch": ""}]
)
async def test_postgresql_that_lost_commits_ends_the_epoch_and_its_versions(
    site: Site, lost: dict[str, int | str]
) -> None:
    meter = site.gateway(Count(epochs=3, last_id="5-0"))
    site.postgresql = meter._epochs._register  # type: ignore[assignment]
    site.postgresql.marks = site.postgresql.marks._replace(published=2)
    await site.load(meter)
    publication = await meter.publication()
    await publication.mark({0: 2})
    await publication.raise_account_version(site.account_id, 9)
    await publication.apply_credits(site.account_id, credit_seq=1, amount=1_000_000)
    await Journal(site.redis_client, 1).read({0: "0-0"}, 10)
    await site.redis_client.call((b"HSET", b"gw:{p00}:c", b"t", b"5-0"))
    assert await meter.compare_stores() == 0
    site.postgresql.marks = site.postgresql.marks._replace(**lost)  # type: ignore[arg-type] # by name
    assert await meter.compare_stores() == 1
    assert (await site.admit(meter)).verdict is Verdict.NOT_LOADED
    assert await site.load(meter, balance=5) is LoadResult.LOADED, "version 1 is behind no other"
    assert (await site.admit(meter)).verdict is Verdict.INSUFFICIENT_CREDITS


async def test_publication_read_before_an_epoch_is_refused(site: Site) -> None:
    meter = site.gateway()
    await site.load(meter)
    publication = await meter.publication()
    await meter.rebuild()
    for publishing in (
        publication.apply_credits(site.account_id, credit_seq=1, amount=5),
        publication.raise_account_version(site.account_id, 2),
        publication.raise_catalogue_version(2),
    ):
        with pytest.raises(EpochEnded):
            await publishing


async def test_load_read_before_an_epoch_is_refused(site: Site) -> None:
    meter = site.gateway()
    keys = meter.keys(site.account_id)
    epoch = await meter.epoch(0)
    await meter.rebuild()
    loading = meter.load(keys, account_version=1, credit_seq=0, balance=100, catalogue_version=1, epoch=epoch)
    assert await loading is LoadResult.WRONG_EPOCH


async def test_epoch_that_was_entered_before_goes_on_without_the_register(site: Site) -> None:
    meter = site.gateway()
    await site.load(meter)

    async def away(partitions: Sequence[int]) -> Mapping[int, PostgresqlMarks]:  # noqa: ARG001 - as the protocol says
        raise NotSent("PostgreSQL is out of reach")

    site.postgresql.read = away  # type: ignore[assignment]
    meter._epochs.mark_ended(0, await meter.epoch(0))
    assert (await site.admit(meter)).verdict is Verdict.ADMITTED
    with pytest.raises(NotSent):
        await site.admit(site.gateway())
