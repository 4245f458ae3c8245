"""What release 0.1.0 left in Redis and on disk is written rightly; what a newer release left is left to it, by name.

`release_0_1_0.json` holds what that release wrote: journal entries of a settled call, of two swept ones, of a
correction and of a call whose account was not loaded, an open hold, a swept prefix, and a spool file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from gateway import metrics
from gateway.ledger.credits import grants
from gateway.ledger.usage.ingestion import ingest
from gateway.meter.journal_charges import UnknownRecordVersion
from gateway.meter.keys import AccountKeys, swept_key
from gateway.meter.layout import HoldLine
from gateway.meter.replay_buffer import Settlement
from gateway.proxy.settle import settlement as settlement_module
from gateway.proxy.settle.settlement import Settler
from gateway.proxy.settle.settlement_record import encode
from gateway.proxy.settle.spool import Spool, SpoolFile, frame
from gateway.workers.usage import entry_writing
from gateway.workers.usage import usage_writer as module
from gateway.workers.usage.usage_writer import UsageWriter
from policies.usage import records
from policies.usage.records import CURRENT, PREFIXES, SUFFIXES, RecordVersion, field_of, mark
from tests.workers.conftest import PARTITIONS, Backend, a_prefix, a_suffix

OLD: dict[str, Any] = json.loads((Path(__file__).parent / "release_0_1_0.json").read_text())
USER_ID = UUID(OLD["user_id"])
NEWER_SUFFIX = field_of(RecordVersion(CURRENT.prefix, max(SUFFIXES) + 1))
NEWER_PREFIX = field_of(RecordVersion(max(PREFIXES) + 1, CURRENT.suffix))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def an_old_user(backend: Backend, *, credits_given: int = 1000) -> AccountKeys:
    """The account of what release 0.1.0 wrote."""
    async with backend.database.transaction() as connection:
        await connection.execute(text("INSERT INTO users (id, email) VALUES (:id, 'old@example.com')"), {"id": USER_ID})
        await connection.execute(text("INSERT INTO user_credits (user_id) VALUES (:id)"), {"id": USER_ID})
        await grants.grant(connection, USER_ID, amount=credits_given, source="promo", reason="test", actor="test")
    return backend.meter.keys(USER_ID)


async def add_old_entries(backend: Backend, keys: AccountKeys) -> None:
    for _, fields in OLD["entries"]:
        await backend.redis.xadd(keys.journal, dict(zip(fields[::2], fields[1::2], strict=True)))


async def write(backend: Backend) -> None:
    writer = UsageWriter(backend.database, backend.journal)
    while await writer.run_once():
        pass


async def entries(backend: Backend, keys: AccountKeys) -> list[dict[bytes, bytes]]:
    """The fields of every entry in the journal of the account's partition."""
    return [fields for _, fields in await backend.redis.xrange(keys.journal.decode()) or ()]  # type: ignore[misc] # redis-py allows for None


async def rows(backend: Backend) -> dict[int, Mapping[str, Any]]:
    """The rows of usage_tracking by the number at the end of their request id."""
    async with backend.database.read() as connection:
        found = [dict(row) for row in (await connection.execute(text("SELECT * FROM usage_tracking"))).mappings()]
    return {int(str(row["request_id"])[-12:]): row for row in found}


def ends(found: Mapping[int, Mapping[str, Any]]) -> dict[int, tuple[str, int, int | None]]:
    return {
        number: (row["outcome"], row["credits_charged"], row["metadata"].get("balance_after"))
        for number, row in found.items()
    }


async def test_entries_of_release_0_1_0_are_written_with_all_their_columns(backend: Backend) -> None:
    keys = await an_old_user(backend)
    await add_old_entries(backend, keys)
    await write(backend)
    found = await rows(backend)
    assert ends(found) == {
        1: ("succeeded", 3, 972),
        2: ("succeeded", 4, 978),
        3: ("abandoned", 0, 982),
        4: ("succeeded", 2, None),
    }
    first = found[1]
    assert (first["endpoint"], first["category"], first["client_request_id"]) == ("analyze", "a\tb", "client-1")
    assert (first["tokens_used"], str(first["cost_usd"]), first["response_time_ms"]) == (1200, "0.004100", 87)
    assert first["metadata"]["a"] == 1
    assert await backend.journal.length() == 0
    assert (await backend.balance(USER_ID)).current_credits == 1000 - 3 - 4 - 2


async def test_entries_and_holds_of_release_0_1_0_count_when_their_account_is_loaded(backend: Backend) -> None:
    keys = await an_old_user(backend)
    await add_old_entries(backend, keys)
    await backend.redis.hset(keys.holds, OLD["hold"].split("\t")[2], OLD["hold"])
    for _ in range(2):
        await backend.load(USER_ID)
        assert (await backend.try_admit(USER_ID, "none", amount=2**40)).balance == 1000 - 3 - 4 - 2 - 5
        await write(backend)
        await backend.meter.unload(keys)


async def test_hold_of_release_0_1_0_is_settled_and_its_swept_prefix_corrected(backend: Backend) -> None:
    keys = await an_old_user(backend)
    hold = HoldLine.unpack(OLD["hold"].encode())
    request_id, swept_id = records.identity(hold.prefix)["request_id"], records.identity(OLD["swept"])["request_id"]
    await backend.redis.hset(keys.holds, request_id, OLD["hold"])
    await backend.redis.set(swept_key(keys.partition, swept_id), OLD["swept"])
    await backend.load(USER_ID)
    assert await backend.settle(USER_ID, request_id, charge=2) == 998
    assert await backend.settle(USER_ID, swept_id, charge=4) == 994
    assert [next(iter(fields)) for fields in await entries(backend, keys)] == [field_of(CURRENT).encode()] * 2
    await write(backend)
    assert ends(await rows(backend)) == {5: ("succeeded", 2, 998), 3: ("succeeded", 4, 994)}


async def test_spool_of_release_0_1_0_is_settled_and_written(backend: Backend, tmp_path: Path) -> None:
    await an_old_user(backend)
    (tmp_path / "dead.spool").write_bytes(OLD["spool"].encode())
    async with Settler(backend.meter, Spool(tmp_path, "me")) as settler:
        assert settler.pending == 4
        assert await settler.run_once() == 4
    assert names(tmp_path) == []
    await write(backend)
    # The thirteenth was spooled without its prefix, and its hold is gone: nothing can be made of it.
    assert ends(await rows(backend)) == {
        10: ("succeeded", 7, None),
        11: ("succeeded", 2, None),
        12: ("abandoned", 0, None),
    }
    assert (await backend.balance(USER_ID)).current_credits == 1000 - 7 - 2


def suffix_of_version_1(charge: int) -> str:
    known = {"outcome": "succeeded", "status_code": "200", "credits_charged": str(charge)}
    return "\t".join([known.get(name, records.NULL) for name in SUFFIXES[1]])


async def add_entry(backend: Backend, user_id: UUID, field: str, *, more: str = "") -> str:
    """Appends a settled call to the account's journal under this field; gives its request id."""
    request_id = str(uuid4())
    suffix = a_suffix(3) if field != "r1.1" else suffix_of_version_1(3)
    record = records.join(a_prefix(user_id, request_id), suffix)
    await backend.redis.xadd(backend.meter.keys(user_id).journal, {field: record + more})
    return request_id


async def test_entry_of_a_newer_release_stops_its_partition_by_name_and_no_other(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    users: dict[int, UUID] = {}
    while len(users) < 2:
        user_id = await backend.a_user()
        users[backend.meter.keys(user_id).partition] = user_id
    (partition, user_id), (_, other_id) = users.items()
    before = await add_entry(backend, user_id, "r1.1")
    newer = await add_entry(backend, user_id, NEWER_SUFFIX, more="\tmodel")
    behind = await add_entry(backend, user_id, "r1.1")
    others = {await add_entry(backend, other_id, "r1.1") for _ in range(3)}
    writer = UsageWriter(backend.database, backend.journal)
    with capture_logs() as lines:
        for _ in range(3):
            await writer.run_once()
    named = [line for line in lines if line["event"] == "journal_version_unknown"]
    assert [(line["partition"], line["version"]) for line in named] == [(partition, (1, max(SUFFIXES) + 1))]
    assert metrics.JOURNAL_NEWER_PARTITIONS._value.get() == 1
    assert await written(backend) == {before, *others}
    assert await backend.journal.lengths() == {partition: 2}

    monkeypatch.setitem(SUFFIXES, max(SUFFIXES) + 1, (*SUFFIXES[CURRENT.suffix], "file_extension"))
    monkeypatch.setattr(entry_writing, "ingest", ingest_known)
    await writer.run_once()
    await writer.run_once()
    assert await written(backend) == {before, behind, *others, newer}
    assert await backend.journal.length() == 0
    assert metrics.JOURNAL_NEWER_PARTITIONS._value.get() == 0


async def ingest_known(connection: Any, lines: Sequence[bytes], *, columns: Sequence[str]) -> Any:
    """As the newer release does, but that its column is not stored."""
    if "file_extension" in columns:
        lines = [b"\t".join((*line.split(b"\t")[:-2], b"\\N\n")) for line in lines]
        columns = [name for name in columns if name != "file_extension"]
    return await ingest(connection, lines, columns=columns)


async def written(backend: Backend) -> set[str]:
    async with backend.database.read() as connection:
        return {
            str(found) for found in (await connection.execute(text("SELECT request_id FROM usage_tracking"))).scalars()
        }


R1_1_PREFIX = (
    "01990c5e-5b00-7000-8000-000000000021\t1790000000000021\t01990c5e-4a70-7c3e-9f2b-52c1e9a7d001\t\\N\t\\N\tpro\t"
    "chat\tPOST\t/v1/chat/completions\tai_generation\t1\t\\N\t\\N\t\\N\t203.0.113.7\t\\N"
)
R1_1_SUFFIX = (
    'succeeded\t200\t\\N\t9\t1300\t\\N\t512\t2048\t\\N\t87\t80\t{"usage_source": "reported", "model": "gpt-4o", '
    '"usage": {"input": 1000, "output": 300}}\t\\N\t\\N\t\\N'
)


async def test_entry_and_spool_of_records_without_usage_columns_keep_all_they_say(
    backend: Backend, tmp_path: Path
) -> None:
    keys = await an_old_user(backend)
    await backend.redis.xadd(keys.journal, {"r1.1": "\t".join((R1_1_PREFIX, R1_1_SUFFIX, "991"))})
    prefix = R1_1_PREFIX.replace("0021", "0022")
    spooled = {
        "version": 2,
        "request_id": "01990c5e-5b00-7000-8000-000000000022",
        "account_id": str(USER_ID),
        "charge": 9,
        "record": "r1.1",
        "prefix": prefix,
        "suffix": R1_1_SUFFIX,
        "epoch": "",
        "is_on_outage_credit": True,
        "claim": None,
    }
    (tmp_path / "dead.spool2").write_bytes(frame(json.dumps(spooled).encode()))
    async with Settler(backend.meter, Spool(tmp_path, "me")) as settler:
        assert await settler.run_once() == 1
    await write(backend)
    found = await rows(backend)
    assert ends(found) == {21: ("succeeded", 9, 991), 22: ("succeeded", 9, None)}
    for row in found.values():
        assert (row["tokens_used"], row["model"], row["usage_source"]) == (1300, None, None)
        assert row["metadata"]["usage"] == {"input": 1000, "output": 300}


async def test_partitions_that_wait_for_a_newer_release_do_not_keep_others_waiting(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run claims one partition; the stopped ones were written longest ago."""
    monkeypatch.setattr(module, "_partitions_for", lambda entries, lengths: 1)  # noqa: ARG005 - as the function's
    users = {backend.meter.keys(user_id).partition: user_id for user_id in [await backend.a_user() for _ in range(40)]}
    assert len(users) == PARTITIONS
    *stopped, last = users.values()
    for user_id in stopped:
        await add_entry(backend, user_id, NEWER_SUFFIX)
    request_id = await add_entry(backend, last, "r1.1")
    writer = UsageWriter(backend.database, backend.journal)
    for _ in range(PARTITIONS + 1):
        await writer.run_once()
    assert await written(backend) == {request_id}


async def test_account_is_loaded_with_the_charges_of_a_newer_suffix(backend: Backend) -> None:
    user_id = await backend.a_user()
    await add_entry(backend, user_id, NEWER_SUFFIX, more="\tmodel")
    await backend.load(user_id)
    assert (await backend.try_admit(user_id, "none", amount=2**40)).balance == 97


async def test_account_is_not_loaded_past_a_charge_of_a_newer_prefix(backend: Backend) -> None:
    """Where its charge stands is unknown, so the account waits for a gateway of that release."""
    user_id = await backend.a_user()
    await add_entry(backend, user_id, NEWER_PREFIX)
    with pytest.raises(UnknownRecordVersion, match=NEWER_PREFIX):
        await backend.load(user_id)
    assert (await backend.try_admit(user_id, "none")).verdict.name == "NOT_LOADED"


async def test_hold_of_a_newer_prefix_is_swept_under_its_version(backend: Backend) -> None:
    user_id = await backend.a_user()
    await backend.load(user_id)
    request_id, keys = str(uuid4()), backend.meter.keys(user_id)
    prefix = mark(max(PREFIXES) + 1) + a_prefix(user_id, request_id) + "\tmore"
    await backend.redis.hset(keys.holds, request_id, HoldLine(5, "gone", prefix).packed())
    await backend.meter.unload(keys)
    await backend.load(user_id)
    assert (await backend.try_admit(user_id, "none", amount=2**40)).balance == 95
    assert await backend.meter.abandon(keys, request_id)
    (fields,) = await entries(backend, keys)
    assert list(fields) == [NEWER_PREFIX.encode()]
    assert fields[NEWER_PREFIX.encode()].startswith(request_id.encode())


@pytest.mark.parametrize("part", ["version", "record"])
async def test_spool_of_a_newer_release_is_left_to_it_by_name(
    backend: Backend, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement_module, "RECOVERY_INTERVAL_SECONDS", 0.0)
    user_id = await backend.a_user()
    await backend.load(user_id)
    settlement = Settlement(backend.meter.keys(user_id), str(uuid4()), 1, a_suffix(1))
    members = json.loads(encode(settlement)) | ({"version": 3} if part == "version" else {"record": NEWER_SUFFIX})
    path = tmp_path / "dead.spool2"
    path.write_bytes(frame(encode(settlement)) + frame(json.dumps(members).encode()))
    content = path.read_bytes()
    async with Settler(backend.meter, Spool(tmp_path, "me")) as settler:
        with capture_logs() as lines:
            for _ in range(2):
                await settler.run_once()
        named = [line for line in lines if line["event"] == "spool_version_unknown"]
        assert [line["path"] for line in named] == [str(path)]
        assert metrics.SPOOL_NEWER_FILES._value.get() == 1
        assert settler.pending == 0
        assert path.read_bytes() == content
        file = SpoolFile.recover(path)  # nobody has it locked
        assert file is not None
        file.remove()
        await settler.run_once()
        assert metrics.SPOOL_NEWER_FILES._value.get() == 0
