"""A schema serves more than one version of the gateway, and a version that it does not serve says so and stops."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import structlog
from sqlalchemy import text

import migrations
from gateway.cli.installation import prepare
from gateway.config import load
from gateway.ledger.db import schema
from gateway.ledger.db.schema import Fit, SchemaUnfit, fit
from gateway.ledger.db.session import Database
from gateway.runtime.stores import StoreUrls
from tests.cli.test_installation import ROUTES, SECRETS
from tests.migrations.conftest import execute

KNOWN = {"0001": True, "0002": True, "0003": False}
COLUMNS = text("""
    SELECT table_name || '.' || column_name, data_type, is_nullable = 'YES' OR column_default IS NOT NULL OR
           is_identity = 'YES'
      FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
""")

Columns = dict[str, tuple[str, bool]]


def _migrations() -> Iterator[ModuleType]:
    folder = Path(migrations.__file__).parent / "versions"
    for path in sorted(folder.glob("0*.py")):
        yield importlib.import_module(f"migrations.versions.{path.stem}")


@pytest.mark.parametrize(
    ("at", "serves_from", "expected"),
    [
        ("0003", "", Fit("0003", "0003")),
        ("0002", "", Fit("0002", "0003")),  # what 0003 brings is not needed
        ("0004", "0003", Fit("0004", "0003", is_newer=True)),
        ("0009", "0001", Fit("0009", "0003", is_newer=True)),
        ("0001", "", "at revision 0001, this version needs 0002: run `gateway migrate up`"),
        (None, "", "empty, this version needs 0002: run `gateway migrate up`"),
        (
            "0005",
            "0004",
            "0005, which serves versions from revision 0004 on, and this version knows 0003 at most: run the",
        ),
        ("0005", "", "0005, which is newer, and this version knows 0003 at most: run the version that migrated"),
    ],
)
def test_version_starts_with_the_schemas_that_serve_it(at: str | None, serves_from: str, expected: Fit | str) -> None:
    if isinstance(expected, Fit):
        assert fit(at, serves_from=serves_from, known=KNOWN) == expected
        return
    with pytest.raises(SchemaUnfit, match=expected):
        fit(at, serves_from=serves_from, known=KNOWN)


async def test_older_version_starts_beside_a_newer_schema_and_says_so(own_database_url: str, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(ROUTES)
    config = load(tmp_path / "gateway.yaml", {**SECRETS, "GATEWAY_DATABASE__URL": own_database_url})
    stores = StoreUrls(own_database_url, "")
    await execute(own_database_url, "UPDATE alembic_version SET version_num = '9999'")
    with structlog.testing.capture_logs() as lines:
        await prepare(config, stores)  # the newest migration serves itself, as its database says
    assert [(each["event"], each["database"], each["gateway"]) for each in lines] == [
        ("schema_newer", "9999", schema.head())
    ]
    await execute(
        own_database_url, "COMMENT ON TABLE alembic_version IS 'Serves versions of the gateway from revision 9998'"
    )
    with pytest.raises(SchemaUnfit, match="serves versions from revision 9998 on"):
        await prepare(config, stores)


async def test_migration_says_which_versions_it_serves_and_the_database_repeats_it(empty_url: str) -> None:
    """What it adds must not stop the code before, and what that code uses must not go or change its type."""
    before: Columns = {}
    previous = ""
    for module in _migrations():
        await schema.upgrade(empty_url, module.revision)
        after = await _columns(empty_url)
        assert previous <= module.serves_from <= module.revision, (
            f"{module.__name__}: an older version was lost already"
        )
        if module.serves_from < module.revision:
            assert _hindrances(before, after) == [], f"{module.__name__} does not serve the version before"
            previous = max(previous, module.serves_from)
        else:
            previous = module.revision
        assert isinstance(module.is_needed, bool)
        before = after
    found = await schema.check(empty_url)
    assert found == Fit(schema.head(), schema.head())


def _hindrances(before: Columns, after: Columns) -> list[str]:
    tables = {name.partition(".")[0] for name in before}
    gone = [name for name, (kind, _) in before.items() if after.get(name, ("", False))[0] != kind]
    demanded = [
        name
        for name, (_, may_be_omitted) in after.items()
        if name.partition(".")[0] in tables and not may_be_omitted and before.get(name, ("", True))[1]
    ]
    return [*gone, *demanded]


async def _columns(url: str) -> Columns:
    database = Database(url)
    async with database.read() as connection:
        rows = list(await connection.execute(COLUMNS))
    await database.close()
    return {name: (kind, may_be_omitted) for name, kind, may_be_omitted in rows}
