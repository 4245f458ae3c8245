"""Usage export, reconciliation and audit verification by command."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from gateway.cli.records.usage import _export
from gateway.config import load
from gateway.embedded.stores import Stores
from gateway.ledger.credits import grants, movements
from gateway.ledger.db import schema
from gateway.ledger.db.session import Database
from gateway.ledger.usage import poison
from gateway.ledger.usage.history import UsageFilter, UsageRow
from gateway.ledger.usage.ingestion import ingest
from policies.usage.records import text as escaped
from tests.cli.commands import ENVIRON, REPOSITORY
from tests.cli.test_records import CONFIG, Place
from tests.ledger.make import a_line, a_user
from tests.support import databases

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 3_000
FORMULA = '=HYPERLINK("http://evil.test")'
AWKWARD = 'a "quoted", comma\nand a line: é'


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "gateway.yaml").write_text(CONFIG)
    async with await Stores.open(folder, durable=False) as stores:
        await schema.upgrade(stores.database_url)
        database = Database(stores.database_url)
        yield Place(folder, stores, database)
        await database.close()


@pytest.fixture(scope="module")
async def users(place: Place) -> tuple[UUID, UUID]:
    """Two accounts, the first with ROWS calls, one every 20 minutes, and the second with one."""
    async with place.database.transaction() as connection:
        heavy, light = (await a_user(connection)).id, (await a_user(connection)).id
        await grants.grant(connection, heavy, amount=10_000, source="promo", reason="test", actor="test")
        lines = [
            a_line(heavy, at=FIRST + timedelta(minutes=20 * n), tokens_used=n, cost_usd="0.012345", metadata='{"a": 1}')
            for n in range(ROWS)
        ]
        lines.append(a_line(light, at=FIRST, category=escaped(AWKWARD), batch_id=FORMULA, status_code=None))
        await ingest(connection, lines)
    return heavy, light


def table(out: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(out, newline="")))


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def test_usage_export_is_complete_and_in_order_of_time(place: Place, users: tuple[UUID, UUID]) -> None:
    answer = await place.run("usage", "export")
    assert (answer.code, answer.err) == (0, "")
    rows = table(answer.out)
    assert len(rows) == ROWS + 1
    moments = [datetime.fromisoformat(row["created_at"]) for row in rows]
    assert moments == sorted(moments)
    (awkward,) = (row for row in rows if row["user_id"] == str(users[1]))
    assert (awkward["category"], awkward["status_code"]) == (AWKWARD, "")
    assert awkward["batch_id"] == f"'{FORMULA}"  # text to a spreadsheet
    assert (rows[-1]["cost_usd"], json.loads(rows[-1]["metadata"])) == ("0.012345", {"a": 1})


async def test_usage_export_waits_for_its_reader_where_transactions_are_bounded(
    own_database_url: str, redis_url: str
) -> None:
    database = Database(own_database_url)
    async with database.transaction() as connection:
        user_id = (await a_user(connection)).id
        await ingest(connection, [a_line(user_id, at=FIRST) for _ in range(ROWS)])
    await database.close()
    await databases.bound_transactions(own_database_url)
    secrets = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
    stores = {"GATEWAY_DATABASE__URL": own_database_url, "GATEWAY_REDIS__URL": redis_url}
    written: list[UsageRow] = []

    def write_slowly(row: UsageRow) -> None:
        if not written:
            time.sleep(1.2)
        written.append(row)

    config = load(None, secrets | stores)
    await _export(config, UsageFilter(), None, lambda: write_slowly, shows_progress=False)
    assert len(written) == ROWS


async def test_usage_export_as_json_lines_has_types(place: Place, users: tuple[UUID, UUID]) -> None:
    arguments = ("--from", "2026-01-01", "--to", "2026-01-01T00:20:00.000001+00:00", "--format", "jsonl")
    rows = (await place.run("usage", "export", *arguments)).values()
    assert len(rows) == 3
    (awkward,) = (row for row in rows if row["user_id"] == str(users[1]))
    assert (awkward["category"], awkward["status_code"], awkward["metadata"]) == (AWKWARD, None, {})
    assert awkward["batch_id"] == FORMULA
    last = rows[-1]
    assert (last["tokens_used"], last["cost_usd"], last["metadata"]) == (1, 0.012345, {"a": 1})
    assert last["created_at"] == "2026-01-01T00:20:00+00:00"


async def test_usage_export_of_a_span_excludes_its_end_and_may_be_of_one_user(
    place: Place, users: tuple[UUID, UUID], tmp_path: Path
) -> None:
    january, february, light = await asyncio.gather(
        place.run("usage", "export", "--from", "2026-01-01", "--to", "2026-02-01"),
        place.run("usage", "export", "--from", "2026-02-01T01:00:00+01:00", "--output", str(tmp_path / "february.csv")),
        place.run("usage", "export", "--user", str(users[1])),
    )
    written = (tmp_path / "february.csv").read_text("utf-8")
    assert (february.code, february.out, february.err) == (0, "", "")
    assert len(table(january.out)) == 31 * 72 + 1
    assert len(table(written)) == ROWS - 31 * 72
    assert [row["user_id"] for row in table(light.out)] == [str(users[1])]
    assert sum(Decimal(row["credits_charged"]) for row in table(january.out) + table(written)) == ROWS + 1
    assert names(tmp_path) == ["february.csv"]


async def test_failed_usage_export_leaves_no_file(place: Place, tmp_path: Path) -> None:
    file = ("--output", str(tmp_path / "x.csv"))
    day, order, folder, user = await asyncio.gather(
        place.run("usage", "export", "--from", "yesterday", *file),
        place.run("usage", "export", "--from", "2026-02-01", "--to", "2026-02-01", *file),
        place.run("usage", "export", "--output", str(tmp_path / "none" / "x.csv")),
        place.run("usage", "export", "--user", "nobody@example.com", *file),
    )
    assert [day.code, order.code, folder.code] == [2, 2, 2]
    assert "neither a date such as 2026-01-31 nor a timestamp" in " ".join(day.err.replace("│", " ").split())
    assert "is not before --to" in " ".join(order.err.replace("│", " ").split())
    assert "cannot write" in folder.err
    assert user.complaint() == "gateway: no user nobody@example.com"
    assert names(tmp_path) == []


@pytest.mark.usefixtures("users")
async def test_usage_export_ends_quietly_with_its_reader(place: Place) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "usage", "export", "--config", str(place.folder / "gateway.yaml")),
        *("--data-dir", str(place.folder)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
        env=ENVIRON,
        limit=1024,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(60):
        assert (await process.stdout.readline()).startswith(b"request_id,created_at,")
        process.stdout._transport.close()  # type: ignore[attr-defined] # as a shell's pipe to `head` ends
        assert b"Traceback" not in await process.stderr.read()
        await process.wait()


async def test_usage_poison_shows_refused_journal_entries(place: Place) -> None:
    async with place.database.transaction() as connection:
        for number in range(2):
            await poison.quarantine(
                connection, partition=7, entry_id=f"{number}-0", line=b"n\xffnsense\tx\n", reason="invalid\ninput"
            )
    newest, oldest = (await place.run("usage", "poison", "--json")).values()
    assert (newest["entry_id"], oldest["entry_id"], oldest["partition"]) == ("1-0", "0-0", 7)
    assert (oldest["reason"], oldest["line"]) == ("invalid\ninput", "n\\xffnsense\tx")


async def test_reconcile_reports_and_repairs_differences(place: Place, users: tuple[UUID, UUID]) -> None:
    clean = (await place.run("reconcile", "--json")).value()
    assert (clean["accounts"], clean["differences"]) == (2, 0)
    async with place.database.transaction() as connection:
        statement = "UPDATE user_credits SET current_credits = current_credits + 7 WHERE user_id = :user_id"
        await connection.execute(text(statement), {"user_id": users[0]})
    wrong = await place.run("reconcile", "--json")
    *found, summary = [json.loads(line) for line in wrong.out.splitlines()]
    assert (wrong.code, wrong.err) == (1, "")
    assert [(row["user_id"], row["book"], row["found"] - row["expected"], row["repaired"]) for row in found] == [
        (str(users[0]), "ledger", -7, False),
        (str(users[0]), "grants", -7, False),
    ]
    assert summary == {"accounts": 2, "hot": 0, "differences": 2, "credits": 14, "repaired": 0}
    *repaired, summary = (await place.run("reconcile", "--repair", "--json")).values()
    assert (len(repaired), summary["repaired"]) == (2, 2)
    said = await place.run("reconcile", "--repair")
    assert (said.code, said.out) == (0, "accounts 2, hot 0, differences 0, credits 0, repaired 0\n")
    async with place.database.read() as connection:
        newest = (await movements.list_ledger(connection, users[0])).data[0]
    assert (newest.kind, newest.amount, newest.reason, newest.actor) == ("adjustment", 7, "reconciliation", "cli")


async def test_resync_begins_an_epoch_in_every_partition(place: Place) -> None:
    began = (await place.run("resync", "--json")).value()
    assert began == {"partitions": 64, "begun": 64, "postgresql_behind": 0, "redis_behind": 0}
    async with place.database.transaction() as connection:
        await connection.execute(text("DELETE FROM meter_epochs"))  # as a backup from before leaves it
    said = await place.run("resync")
    assert (said.code, said.out) == (0, "partitions 64, begun 64, postgresql_behind 64, redis_behind 0\n")


async def test_backup_of_embedded_stores_is_made_while_they_run(place: Place, tmp_path: Path) -> None:
    file = str(tmp_path / "backup")
    made = (await place.run("backup", file, "--json")).value()
    checked = (await place.run("restore", file, "--check", "--json")).value()
    assert {name: made[name] for name in checked} == checked
    assert (made["schema"], made["journal_entries"], made["bytes"]) == (
        schema.head(),
        0,
        (tmp_path / "backup").stat().st_size,
    )
    said = (await place.run("restore", file, "--replace")).complaint()
    assert said.endswith("connections of gateways or commands use the database: stop them first")


async def test_audit_verify_names_the_first_changed_row(place: Place) -> None:
    for email in ("ada@example.com", "bob@example.com"):
        assert (await place.run("users", "create", "--email", email, "--json")).code == 0
    sound = await place.run("audit", "verify", "--json")
    told = json.loads(sound.out)
    assert (sound.code, told["broken"]) == (0, None)
    assert told["rows"] >= 2
    assert (await place.run("audit", "verify", "--anchor", told["head"])).code == 0
    async with place.database.transaction() as connection:
        for statement in (
            "ALTER TABLE audit_log DISABLE TRIGGER append_only",
            "UPDATE audit_log SET actor = 'nobody' WHERE id = 1",
            "ALTER TABLE audit_log ENABLE TRIGGER append_only",
        ):
            await connection.execute(text(statement))
    broken = await place.run("audit", "verify")
    assert (broken.code, broken.out) == (1, "row 1: it was changed\n")
