"""Commands on the database, beside running stores or alone."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from gateway.config import load
from gateway.embedded.stores import Stores
from gateway.ledger.accounts.principals import find_principal
from gateway.ledger.audit import audit_log
from gateway.ledger.audit.audit_log import AuditFilter
from gateway.ledger.db import schema
from gateway.ledger.db.session import Database
from policies.access.keys import digest, is_well_formed
from policies.model import KeyStatus, Principal
from tests.cli.commands import ENVIRON, Answer, run

EMAIL = "ada@example.com"
CONFIG = """
upstreams: {ai: {targets: [http://127.0.0.1:9000]}}
routes: [{name: analyze, match: {path: /v1/analyze}, upstream: ai, permission: analyze, price: {credits: 1}}]
plans:
  - {id: team, name: Team of ten, price: 10, credits_per_period: 5}
  - {id: reader, name: Reader, price: 1, permissions: []}
"""
APPLIED = """
plans:
  - {id: team, name: Team of twelve, price: 0, credits_per_period: 5, permissions: [analyze, export],
     pricing_model: tiered, tiers: [{up_to: 12, unit_price: 0.5}, {unit_price: 0.25, flat_price: 1}]}
  - {id: late, name: Late, price: 3}
"""


@dataclass(frozen=True)
class Place:
    """A data directory and the configuration that commands are given with it."""

    folder: Path
    stores: Stores
    database: Database

    async def run(self, *arguments: str, out: Path | None = None) -> Answer:
        where = ("--config", str(self.folder / "gateway.yaml"), "--data-dir", str(self.folder))
        return await run(*arguments, *where, out=out)

    async def caller(self, key: str) -> Principal:
        """Who holds the key, by the secrets that the commands made for themselves."""
        peppers = load(None, ENVIRON, overrides={"data_dir": str(self.folder)}).secrets.peppers
        async with self.database.read() as connection:
            found = await find_principal(connection, digest(key.encode(), peppers[max(peppers)]))
        assert found is not None
        return found


@pytest.fixture(scope="module")
async def empty_place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """Stores that run, as under `gateway serve`, with nothing in them."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "gateway.yaml").write_text(CONFIG)
    (folder / "applied.yaml").write_text(APPLIED)
    async with await Stores.open(folder, durable=False) as stores:
        database = Database(stores.database_url)
        yield Place(folder, stores, database)
        await database.close()


@pytest.fixture(scope="module")
async def place(empty_place: Place) -> Place:
    """The same, migrated by command."""
    status = await empty_place.run("migrate", "status")
    assert (status.code, status.out, status.err) == (0, f"at nothing, newest is {schema.head()}\n", "")
    up = await empty_place.run("migrate", "up")
    assert (up.code, up.out, up.err) == (0, f"at {schema.head()}\n", "")
    return empty_place


@pytest.fixture(scope="module")
async def ada(place: Place) -> dict[str, Any]:
    return (await place.run("users", "create", "--email", EMAIL, "--name", "Ada", "--plan", "team", "--json")).value()


@pytest.fixture(scope="module")
async def key(place: Place, ada: dict[str, Any]) -> dict[str, Any]:
    arguments = ("--user", ada["email"], "--name", "ci", "--expires", "2035-01-02", "--json")
    return (await place.run("keys", "create", *arguments)).value()


async def test_user_with_a_plan_and_a_key_may_call(place: Place, ada: dict[str, Any], key: dict[str, Any]) -> None:
    assert (ada["name"], ada["status"], ada["plan"]) == ("Ada", "active", "team")
    assert (key["user_id"], key["name"], key["status"]) == (ada["id"], "ci", "active")
    assert key["expires_at"] == "2035-01-02T00:00:00+00:00"
    assert is_well_formed("gw", key["key"].encode())
    caller = await place.caller(key["key"])
    assert (str(caller.key.id), str(caller.account.id)) == (key["id"], ada["id"])
    assert caller.account.subscription is not None
    assert str(caller.account.subscription.id) == ada["subscription_id"]
    assert caller.account.subscription.plan.id == "team"
    assert caller.account.subscription.plan.permissions == {"analyze"}


async def test_keys_are_rotated_and_revoked_and_listed_without_their_secret(
    place: Place, ada: dict[str, Any], key: dict[str, Any]
) -> None:
    new = (await place.run("keys", "rotate", key["id"], "--grace-seconds", "3600", "--json")).value()
    assert (new["name"], new["key"] != key["key"]) == ("ci", True)
    revoked = (await place.run("keys", "revoke", key["id"], "--json")).value()
    assert (revoked["id"], revoked["status"], "key" in revoked) == (key["id"], "revoked", False)
    listed = (await place.run("keys", "list", "--user", ada["id"], "--json")).values()
    assert [(each["id"], each["status"], "key" in each) for each in listed] == [
        (new["id"], "active", False),
        (key["id"], "revoked", False),
    ]
    assert (await place.caller(key["key"])).key.status is KeyStatus.REVOKED
    assert (await place.caller(new["key"])).key.status is KeyStatus.ACTIVE


async def test_granted_credits_are_in_the_balance_the_audit_log_and_redis(place: Place, ada: dict[str, Any]) -> None:
    arguments = ("--user", ada["email"], "--amount", "20", "--reason", "sorry", "--json")
    granted = (await place.run("credits", "grant", *arguments)).value()
    assert granted == {"user_id": ada["id"], "amount": 20, "balance": 25, "reason": "sorry"}
    async with place.database.read() as connection:
        entries = (await audit_log.list_entries(connection, AuditFilter(entity="user", entity_id=ada["id"]))).data
        untold = (await connection.exec_driver_sql("SELECT count(*) FROM outbox")).scalar_one()
    assert [(entry.actor, entry.action) for entry in entries] == [("cli", "credits.grant"), ("cli", "users.create")]
    assert untold == 0


async def test_file_without_plans_overwrites_none_by_those_of_the_gateway(place: Place) -> None:
    bare = place.folder / "bare.yaml"
    bare.write_text("portal: {enabled: false}\n")
    before = (await place.run("plans", "list", "--json")).out
    refused = await place.run("plans", "apply", str(bare), "--yes")
    assert (refused.code, "has no `plans`" in refused.err) == (2, True), refused
    assert (await place.run("plans", "list", "--json")).out == before


@pytest.mark.usefixtures("ada", "key")  # made on the plans as they are before
async def test_plans_are_applied_after_showing_what_changes(place: Place) -> None:
    applied = ("plans", "apply", str(place.folder / "applied.yaml"), "--json")
    unconfirmed = await place.run(*applied)
    assert (unconfirmed.code, "give --yes" in unconfirmed.err) == (1, True)
    shown = await place.run("plans", "apply", str(place.folder / "applied.yaml"))
    assert (shown.code, "late (new)" in shown.out, "Team of ten" in shown.out) == (1, True, True)
    confirmed = await place.run(*applied, "--yes")
    assert (confirmed.code, confirmed.err) == (0, "applied: effective from each subscriber's next request\n")
    assert confirmed.out.rstrip() == unconfirmed.out.rstrip()
    rows = [json.loads(line) for line in confirmed.out.splitlines()]
    assert [row for row in rows if row["plan"] == "team"] == [
        {"plan": "team", "field": "name", "before": "Team of ten", "after": "Team of twelve"},
        {"plan": "team", "field": "price", "before": "10", "after": "0"},
        {"plan": "team", "field": "pricing_model", "before": "flat", "after": "tiered"},
        {
            "plan": "team",
            "field": "tiers",
            "before": "",
            "after": "up to 12: 0.5 each; the rest: 0.25 each and 1",
        },
        {"plan": "team", "field": "permissions", "before": "analyze", "after": "analyze, export"},
    ]
    assert {"plan": "late", "field": "permissions", "before": None, "after": "analyze"} in rows
    listed = (await place.run("plans", "list", "--json")).values()
    assert {plan["id"]: (plan["name"], plan["version"]) for plan in listed} == {
        "reader": ("Reader", 1),
        "late": ("Late", 1),
        "team": ("Team of twelve", 2),
    }


async def test_failed_command_prints_one_line_and_exits_with_1(place: Place, ada: dict[str, Any]) -> None:
    wrong = {
        ("users", "create", "--email", EMAIL.upper()): "another user already has this (uq_users_email_lower)",
        ("users", "create", "--email", "x@example.com", "--plan", "gold"): "no plan 'gold'; there are: ",
        ("keys", "revoke", ada["id"]): f"no usable key {ada['id']}",
        ("credits", "grant", "--user", "y@example.com", "--amount", "1", "--reason", "x"): "no user y@example.com",
        ("keys", "list", "--user", "\udcff"): "no user ",
        ("users", "create", "--email", "x@example.com", "--plan", "\udcff"): "no plan ",
        ("usage", "export", "--user", "y@example.com"): "no user y@example.com",
    }
    answers = await asyncio.gather(*(place.run(*arguments) for arguments in wrong))
    for answer, complaint in zip(answers, wrong.values(), strict=True):
        assert answer.complaint().startswith(f"gateway: {complaint}")


async def test_wrong_usage_exits_with_2(place: Place) -> None:
    too_many = ("credits", "grant", "--user", "a@example.com", "--amount", str(10**12 + 1), "--reason", "x")
    wrong = (("users", "create"), ("keys", "revoke", "nonsense"), too_many)
    for answer in await asyncio.gather(*(place.run(*arguments) for arguments in wrong)):
        assert (answer.code, answer.out) == (2, ""), answer
        assert "Usage:" in answer.err


async def test_arguments_are_held_to_what_the_apis_accept(
    place: Place, ada: dict[str, Any], key: dict[str, Any]
) -> None:
    create = ("keys", "create", "--user", ada["id"])
    grant = ("credits", "grant", "--user", ada["id"], "--amount", "1", "--reason")
    wrong = {
        (*create, "--name", ""): "1 to 200 characters, has 0",
        (*create, "--name", "n" * 201): "1 to 200 characters, has 201",
        (*create, "--name", "two\nlines"): "without control characters",
        (*create, "--name", "\udcff"): "without control characters",
        (*create, "--expires", "2020-01-01"): "is not in the future",
        (*create, "--expires", "0001-01-01"): "is not in the future",
        (*create, "--expires", "9999-12-31T23:59:59.999999"): "out of the calendar",
        (*create, "--expires", "tomorrow"): "is neither a date such as",
        ("keys", "rotate", key["id"], "--grace-seconds", str(2**31)): "is not in the range",
        (*grant, " "): "1 to 200 characters, has 0",
        (*grant, "x" * 100_000): "1 to 200 characters, has 100000",
        ("users", "create", "--email", "n@example.com", "--name", "\u202eada"): "without control characters",
        ("usage", "export", "--from", "0001-01-01T00:00:00+05:00"): "out of the calendar",
    }
    answers = await asyncio.gather(*(place.run(*arguments) for arguments in wrong))
    for answer, complaint in zip(answers, wrong.values(), strict=True):
        assert (answer.code, answer.out) == (2, ""), answer
        assert complaint in " ".join(answer.err.replace("│", "").split()), answer.err


async def test_key_expires_at_the_moment_that_is_given(place: Place, ada: dict[str, Any]) -> None:
    for written, stored in (
        ("2099-01-31", "2099-01-31T00:00:00+00:00"),
        ("2099-01-31T02:00+02:00", "2099-01-31T00:00:00+00:00"),
        ("2099-01-31 12:30:00", "2099-01-31T12:30:00+00:00"),
    ):
        made = (await place.run("keys", "create", "--user", ada["id"], "--expires", written, "--json")).value()
        assert made["expires_at"] == stored


async def test_full_disk_behind_the_output_is_one_line(place: Place, key: dict[str, Any]) -> None:
    answer = await place.run("keys", "list", out=Path("/dev/full"))
    assert (answer.code, answer.err) == (1, "gateway: [Errno 28] No space left on device\n"), key


async def test_warnings_are_not_among_the_output(place: Place, ada: dict[str, Any]) -> None:
    old = json.loads((place.folder / "secrets.json").read_text())["GATEWAY_KEY_PEPPER"]
    newer = {"GATEWAY_KEY_PEPPER": f"2:{'n' * 32},1:{old}"}
    where = ("--config", str(place.folder / "gateway.yaml"), "--data-dir", str(place.folder))
    made = (await run("keys", "create", "--user", ada["id"], "--json", *where, environ=newer)).value()
    warned = await place.run("keys", "list", "--json")
    assert made["id"] in {json.loads(line)["id"] for line in warned.out.splitlines()}
    (line,) = warned.err.splitlines()
    assert (json.loads(line)["event"], json.loads(line)["versions"]) == ("pepper_missing", [2])
    assert (await place.run("keys", "revoke", made["id"])).code == 0


async def test_check_describes_a_configuration_or_its_problems(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(CONFIG)
    bad.write_text("server:\n  publik: 0.0.0.0:8080\nredis: {partitions: many}\n")
    right, wrong, missing = await asyncio.gather(
        *(run("check", "--config", str(file)) for file in (good, bad, tmp_path / "none.yaml"))
    )
    assert (right.code, right.err) == (0, "")
    assert "analyze: " in right.out
    assert (wrong.code, wrong.out, len(wrong.err.splitlines())) == (2, "", 2)
    assert wrong.err.startswith(f"{bad}:2: server.publik: unknown key 'publik'; did you mean public?")
    assert (missing.code, missing.out) == (2, "")
    assert missing.err.startswith(str(tmp_path / "none.yaml"))
    assert not (tmp_path / ".gateway").exists()


async def test_migrate_down_asks_unless_told_not_to(place: Place) -> None:
    asked = await place.run("migrate", "down")
    assert (asked.code, "Go down? [y/N]" in asked.err) == (1, True)
    assert (await place.run("migrate", "status")).out == f"at {schema.head()}\n"
    down = await place.run("migrate", "down", "--yes")
    assert (down.code, down.out, down.err) == (0, f"at {int(schema.head()) - 1:04d}\n", "")
    assert (await place.run("migrate", "up")).code == 0


async def test_commands_work_alone_with_nothing_running(tmp_path: Path) -> None:
    """They start the stores, migrate, create the plans, and stop the stores again."""
    where = ("--data-dir", str(tmp_path / "data"))
    created = (await run("users", "create", "--email", "ada@example.com", "--plan", "pro", *where, "--json")).value()
    assert created["plan"] == "pro"
    status = await run("migrate", "status", *where)
    assert (status.code, status.out) == (0, f"at {schema.head()}\n")
    assert not list((tmp_path / "data").glob("**/postmaster.pid"))


async def test_version_is_that_of_the_installed_package() -> None:
    answer = await run("--version")
    assert (answer.code, answer.out, answer.err) == (0, f"gateway {version('metering-gateway')}\n", "")


async def test_report_of_a_month_is_printed_as_tables_json_and_csv(place: Place, ada: dict[str, Any]) -> None:
    month = f"{datetime.now(UTC):%Y-%m}"
    found = (await place.run("report", "--json")).value()
    assert (found["month"], found["closed_at"]) == (month, None)
    (plan,) = found["plans"]
    assert (plan["plan_id"], plan["currency"], plan["mrr"], plan["subscriptions"]) == ("team", "USD", "10.00", 1)
    assert found["mrr"][0]["new"] == "10.00"
    printed = await place.run("report", month)
    assert printed.out.startswith(f"{month}, as it is now\n\nrevenue\nnone\n\nmrr\n")
    rows = [row for row in csv.DictReader(io.StringIO((await place.run("report", month, "--csv")).out)) if row["mrr"]]
    assert [(row["report"], row["plan_id"], row["mrr"], row["requests"]) for row in rows] == [
        ("plans", "team", "10.00", "")
    ]
    assert ada["plan"] == "team"
    for wrong in ("2026-13", "x", "2099-01"):
        assert (await place.run("report", wrong)).code == 2


async def test_rotated_key_has_expired_and_is_audited(place: Place) -> None:
    user = (await place.run("users", "create", "--email", "rotates@example.com", "--json")).value()
    old = (await place.run("keys", "create", "--user", user["id"], "--json")).value()
    new = (await place.run("keys", "rotate", old["id"], "--json")).value()
    listed = (await place.run("keys", "list", "--user", user["id"], "--json")).values()
    assert {each["id"]: each["status"] for each in listed} == {old["id"]: "expired", new["id"]: "active"}
    async with place.database.read() as connection:
        entries = (await audit_log.list_entries(connection, AuditFilter(entity="key", entity_id=old["id"]))).data
    assert [entry.action for entry in entries] == ["keys.rotate", "keys.create"]
