"""Mapping files say what is wrong with them, and every value becomes what it is here or says why not."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.importing import values
from gateway.importing.accounts import shared_prefix
from gateway.importing.importer import BATCH
from gateway.importing.mapping import PRESETS, InvalidMapping, SourceMapping, load_preset, parse
from gateway.importing.reference import markdown
from gateway.importing.sections import Section
from gateway.importing.source import SourceUnusable, open_source
from gateway.importing.values import Unfit
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.db.session import Database
from policies.access.passwords import is_verifiable
from tests.importing.conftest import NewSource
from tests.importing.examples import ARGON2ID, BCRYPT, BEGAN, EXAMPLES, email, write
from tests.importing.importing import balances, run_import

PAGE = Path(__file__).parents[2] / "docs/reference/import.md"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_import_reference_is_what_the_code_says() -> None:
    assert PAGE.read_text("utf-8") == markdown(), "run `make reference`"


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_reads_its_example_and_is_named_for_it(name: str) -> None:
    preset = load_preset(name)
    assert {table.table for table in preset.tables().values()} >= EXAMPLES[name]().tables.keys()
    assert preset.source == name


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("- a", "expected a map"),
        ("a: [", "while parsing"),
        ("source: Acme", "source: String should match"),
        ("source: acme\nuser: {}", "user: Extra inputs"),
        ("source: acme\nusers: {table: u, fields: {mail: m}}", "no such field: mail; there are email"),
        ("source: acme\nusers: {table: u, fields: {name: n}}", "users.fields: email is required"),
        ("source: acme\nusers: {table: u, fields: {email: {column: e, value: x}}}", "needs one of column, columns"),
        ("source: acme\nusers: {table: u, fields: {email: {column: e, split: ''}}}", "split: String should have"),
        (
            "source: acme\nusers: {table: u, fields: {email: {value: !!timestamp 2026-02-30}}}",
            "acme.yaml: .* day is out of range",
        ),
        (
            "source: acme\nusers: {table: u, fields: {email: a,\n email: b}}",
            "email is written twice, first on line 2.*\n.*line 3",
        ),
        ("source: acme\nusers: {table: u, fields: {[a]: b}}", "a key is a list or a map"),
        ("source: !!int ''", "acme.yaml: has a value that cannot be read"),
        ("[" * 3000, "acme.yaml: has a value that cannot be read"),
    ],
)
def test_a_mapping_file_that_is_wrong_says_where(written: str, complaint: str) -> None:
    with pytest.raises(InvalidMapping, match=complaint):
        parse(written, name="acme.yaml")


@pytest.mark.parametrize(
    ("users", "complaint"),
    [
        ({"table": "user"}, "there is no table user; there are people"),
        ({"table": "people", "fields": {"email": "e"}}, "people has no column e; it has id, mail, kind"),
        ({"table": "people", "key": "uid"}, "users.key: people has no column uid; it has id, mail, kind"),
        ({"table": "people", "key": "kind"}, "people.kind: is no key, several rows have a"),
    ],
)
async def test_a_mapping_that_does_not_fit_the_source_writes_nothing(
    users: dict[str, Any], complaint: str, pristine_database: Database, new_source: NewSource
) -> None:
    url = await new_source("sqlite")
    await write(url, {"people": [{"id": n, "mail": email(n), "kind": "a"} for n in range(2)]})
    mapping = SourceMapping.model_validate({"source": "acme", "users": {"fields": {"email": "mail"}, **users}})
    with pytest.raises(InvalidMapping, match=complaint):
        await run_import(pristine_database, url, mapping)
    assert await balances(pristine_database) == {}


async def test_pages_of_any_key_give_each_row_once_and_where_filters(
    own_database_url: str, new_source: NewSource
) -> None:
    url, target = await new_source("sqlite"), Database(own_database_url)
    count = BATCH + 5
    people = [{"uid": f"{(7 * n) % count:x}", "mail": email(n), "is_gone": n % 5 == 0} for n in range(count)]
    await write(url, {"people": people}, keys={"people": "uid"})
    users = {"table": "people", "where": "is_gone = 0", "fields": {"email": "mail"}}
    done = await run_import(target, url, SourceMapping.model_validate({"source": "acme", "users": users}))
    assert done.counts == {"users": sum(not each["is_gone"] for each in people)}
    assert await balances(target) == {str(each["mail"]): 0 for each in people if not each["is_gone"]}
    await target.close()


async def test_native_types_of_postgresql_are_read(own_database_url: str, new_source: NewSource) -> None:
    url, target = await new_source("postgresql"), Database(own_database_url)
    connection = await asyncpg.connect(url)
    await connection.execute("""
        CREATE SCHEMA app;
        CREATE TYPE app.state AS ENUM ('on', 'off');
        CREATE TABLE app.people (id uuid PRIMARY KEY, mail text, state app.state, extra jsonb, joined timestamptz);
        CREATE TABLE app.tokens (id bigint PRIMARY KEY, owner uuid, hash bytea, scopes text[], ips inet[]);
        INSERT INTO app.people SELECT gen_random_uuid(), 'p' || n || '@example.com', 'off', '{"a": [1, "é"]}',
               '2026-03-01 13:00+01' FROM generate_series(1, 3) n;
        INSERT INTO app.tokens SELECT 5000000000 + row_number() OVER (), id, sha256(id::text::bytea),
               '{read}', '{10.0.0.0/8}'
          FROM app.people;
    """)
    await connection.close()
    users = {
        "email": "mail",
        "status": {"column": "state", "map": {"on": "active", "off": "suspended"}},
        "metadata": "extra",
        "created_at": "joined",
    }
    keys = {"user": "owner", "digest": "hash", "prefix": {"value": "acme_"}, "allowed_ips": "ips"}
    tables = {"users": {"table": "app.people", "fields": users}, "keys": {"table": "app.tokens", "fields": keys}}
    done = await run_import(target, url, SourceMapping.model_validate({"source": "acme", **tables}))
    assert (done.counts, done.problems) == ({"users": 3, "keys": 3}, [])
    async with target.read() as reading:
        query = "SELECT DISTINCT status, metadata, created_at, external_id = metadata ->> 'x' FROM users"
        assert [tuple(row) for row in await reading.execute(text(query))] == [
            ("suspended", {"a": [1, "é"]}, NOON, None)
        ]
    await target.close()


async def test_without_a_section_of_plans_they_are_those_that_are_here(
    own_database_url: str, new_source: NewSource
) -> None:
    url, target = await new_source("sqlite"), Database(own_database_url)
    async with target.transaction() as connection:
        terms = PlanTerms(name="Professional", price=Decimal(30), credits_per_period=70)
        await plans.create(connection, terms, plan_id="pro")
    words = ("pro", "Professional", "gold", "extra")
    people = [{"id": n, "mail": email(n), "plan": word, "since": BEGAN} for n, word in enumerate(words)]
    await write(url, {"people": people})
    plan = {"column": "plan", "map": {"gold": "pro", "*": "platinum", "pro": "pro", "professional": "Professional"}}
    fields = {"user": "id", "plan": plan, "current_period_start": "since"}
    tables = {"users": {"table": "people", "fields": {"email": "mail"}}}
    tables["subscriptions"] = {"table": "people", "fields": fields}
    done = await run_import(target, url, SourceMapping.model_validate({"source": "acme", **tables}))
    assert done.refused == [("subscriptions", "3", "plan")]
    assert await balances(target) == {email(0): 70, email(1): 70, email(2): 70, email(3): 0}
    await target.close()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("sqlite:///x.db",), "give one of --mapping and --preset"),
        (("sqlite:///x.db", "--preset", "firestore"), "there are plan-permissions, firebase, customers"),
        (("--preset", "firebase"), "where to import from is missing"),
        (("sqlite:///x.db", "--preset", "firebase", "--source", "My App"), "is not a letter and up to 31"),
    ],
)
def test_a_command_that_names_no_import_is_wrong_usage(arguments: tuple[str, ...], complaint: str) -> None:
    answer = CliRunner().invoke(app, ["import", *arguments], env={"COLUMNS": "200"})
    assert (answer.exit_code, complaint in answer.output) == (2, True), answer.output


def test_a_preset_can_be_printed_to_start_from() -> None:
    answer = CliRunner().invoke(app, ["import", "--preset", "customers", "--show-preset"])
    assert parse(answer.output, name="printed").named("mine").source == "mine"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
async def test_the_source_cannot_be_written(kind: str, new_source: NewSource) -> None:
    url = await new_source(kind)
    await write(url, {"people": [{"id": 1}]})
    async with open_source(url) as source:
        with pytest.raises(SourceUnusable, match=r"(?i)read.?only"):
            await source.run(lambda connection: connection.exec_driver_sql("DELETE FROM people"))


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("sqlite:////nowhere/at/all.db", "there is no such file"),
        ("oracle://a@b/c", "can be read from mariadb, mysql, postgresql, sqlite only"),
        ("secret@host", "the URL is none"),
        ("postgresql://u:topsecret@127.0.0.1:1/x", "127.0.0.1:1"),
        ("postgresql://u:topsecret@127.0.0.1:1/x?sslmode=require", "Connect call failed"),
        ("postgresql://u:topsecret@127.0.0.1:1/x?nonsense=1", "the parameter nonsense is not supported"),
        ("postgresql://u:p@127.0.0.1:topsecret/x", "the URL is none"),
        ("mysql://u:topsecret@127.0.0.1:1/x?sslmode=require", "sslmode"),
    ],
)
async def test_a_source_that_cannot_be_opened_says_why_without_its_password(url: str, complaint: str) -> None:
    with pytest.raises(SourceUnusable, match=complaint) as raised:
        async with open_source(url):
            pass
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("convert", "raw", "becomes"),
    [
        (values.line, ip_address("10.0.0.1"), "10.0.0.1"),
        (values.networks, [ip_network("10.0.0.0/8")], ("10.0.0.0/8",)),
        (values.moment, "2026-03-01 12:00:00", NOON),
        (values.moment, "2026-03-01T13:00:00+01:00", NOON),
        (values.moment, NOON.replace(tzinfo=None), NOON),
        (values.moment, int(NOON.timestamp()), NOON),
        (values.moment, int(NOON.timestamp()) * 1000, NOON),
        (values.moment, date(2026, 3, 1), NOON.replace(hour=0)),
        (values.decimal, 9.9, Decimal("9.9")),
        (values.whole, "7.0", 7),
        (values.flag, b"\x01", True),
        (values.flag, "No", False),
        (values.words, "read, analyze,,read", ("read", "analyze")),
        (values.words, '["read", "analyze"]', ("read", "analyze")),
        (values.features, '{"seats": 3, "api": true}', {"seats": 3, "api": True}),
        (values.features, "api, export", {"api": True, "export": True}),
        (values.provider, "Lemon-Squeezy", "lemon_squeezy"),
        (values.provider, "lemonsqueezy", "lemon_squeezy"),
        (values.digest, "sha256:" + "0F" * 32, b"\x0f" * 32),
        (values.digest, b"\x0f" * 32, b"\x0f" * 32),
        (values.reference, 7.0, "7"),
        (values.reference, Decimal("7.00"), "7"),
        (values.reference, b"\xff\x00", "ff00"),
        (values.networks, "10.0.0.1, 10.1.2.3/16", ("10.0.0.1/32", "10.1.0.0/16")),
    ],
)
def test_value_becomes_what_it_is_here(convert: values.Convert, raw: object, becomes: object) -> None:
    assert convert(raw) == becomes


@pytest.mark.parametrize(
    ("convert", "raw"),
    [
        (values.moment, "0000-00-00 00:00:00"),
        (values.moment, 10**30),
        (values.moment, True),
        (values.decimal, "NaN"),
        (values.decimal, True),
        (values.decimal, float("inf")),
        (values.reference, Decimal("Infinity")),
        (values.whole, 10**19),
        (values.credits, 1.5),
        (values.count, -1),
        (values.flag, "maybe"),
        (values.text, b"\xff"),
        (values.text, "\ud800"),
        (values.text, "x" * 2001),
        (values.words, 7),
        (values.features, '{"a": [1]}'),
        (values.document, "[1]"),
        (values.document, r'{"a": "\u0000"}'),
        (values.document, r'{"a": "\ud800"}'),
        (values.document, '{"a": 1e400}'),
        (values.document, {"a": [float("nan")]}),
        (values.document, "[" * 100_000),
        (values.currency, "EURO"),
        (values.digest, "0f"),
        (values.token, "a b"),
        (values.networks, "10.0.0.256"),
        (values.provider, "!"),
    ],
)
def test_value_that_has_no_place_here_is_refused(convert: values.Convert, raw: object) -> None:
    with pytest.raises(Unfit):
        convert(raw)


@pytest.mark.parametrize(
    ("secret", "prefix"),
    [
        ("sk_live_51H8abcdefgh", "sk_live_"),
        ("acme_0123456789abcdef", "acme_"),
        ("key-0123456789abcdef", "key-"),
        ("0123456789abcdef0123", "0123"),
    ],
)
def test_keys_of_a_kind_share_a_prefix(secret: str, prefix: str) -> None:
    assert shared_prefix(secret) == prefix


def test_only_hashes_that_a_login_can_verify_at_a_bounded_cost_are_taken() -> None:
    assert is_verifiable(ARGON2ID)
    dear = ARGON2ID.replace("m=19456", "m=999999")
    assert not any(map(is_verifiable, (BCRYPT, dear, ARGON2ID.replace("t=2", "t=99"), "plain", "")))


@pytest.mark.parametrize(
    "word", ["on", "off", "yes", "no", "true", "null", "010", "0x1f", "1:30", "1_000", "1.10", "+1"]
)
def test_words_of_a_map_are_those_of_the_column(word: str) -> None:
    written = f"source: acme\nusers: {{table: u, fields: {{email: e, status: {{column: s, map: {{{word}: active}}}}}}}}"
    users = parse(written, name="acme.yaml").tables()[Section.USERS]
    assert users.fields["status"].translations == {word: "active"}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("010", "010"),
        ("1:30", "1:30"),
        ("2026-03-01", "2026-03-01"),
        ("1e3", "1e3"),
        ("no", "no"),
        ("7", 7),
        ("~", None),
    ],
)
def test_values_of_a_mapping_are_what_gateway_yaml_would_read(written: str, read: object) -> None:
    text = f"source: acme\nusers: {{table: u, fields: {{email: e, name: {{value: {written}}}}}}}"
    assert parse(text, name="acme.yaml").tables()[Section.USERS].fields["name"].value == read


def test_fields_of_a_mapping_can_be_shared_by_an_anchor() -> None:
    text = "source: acme\nusers: {table: u, fields: &same {email: e, name: n}}\n"
    text += "keys: {table: k, fields: {<<: {user: id}, user: u, key: k}}"
    assert parse(text, name="acme.yaml").tables()[Section.KEYS].fields["user"].column == ("u",)


async def test_a_later_section_that_does_not_fit_writes_nothing(
    pristine_database: Database, new_source: NewSource
) -> None:
    url = await new_source("sqlite")
    calls = [{"id": n, "user": 0, "at": BEGAN, "kind": "a"} for n in range(2)]
    await write(url, {"people": [{"id": 0, "mail": email(0)}], "calls": calls})
    usage = {"table": "calls", "key": "kind", "fields": {"user": "user", "created_at": "at"}}
    tables = {"users": {"table": "people", "fields": {"email": "mail"}}, "usage": usage}
    with pytest.raises(InvalidMapping, match=r"calls\.kind: is no key"):
        await run_import(pristine_database, url, SourceMapping.model_validate({"source": "acme", **tables}))
    assert await balances(pristine_database) == {}
