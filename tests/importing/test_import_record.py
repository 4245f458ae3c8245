"""An import stores its progress in the gateway's database, and stops after a batch when an operator cancels it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gateway.importing import import_record
from gateway.importing.import_record import ImportCanceled, ImportRecord
from gateway.importing.importer import RowsRefused
from gateway.ledger.db.session import Database
from gateway.ledger.importing import imports
from gateway.ledger.importing.imports import Import
from tests.importing.conftest import NewSource
from tests.importing.examples import plan_permissions, write
from tests.importing.importing import balances, differences, run_import

USERS = 5
PRESET = "plan-permissions"


async def newest(database: Database) -> Import:
    async with database.read() as connection:
        return (await imports.list_imports(connection, limit=1)).data[0]


class CanceledAt(ImportRecord):
    """An operator cancels it when its subscriptions begin."""

    async def advance(self, sections: Sequence[Mapping[str, Any]]) -> None:
        if any(each["section"] == "subscriptions" and "read" in each for each in sections):
            async with self._database.transaction() as connection:
                before, after = await imports.request_cancel(connection, self._id)
            assert (before.state, after.state, after.is_cancel_requested) == ("running", "running", True)
        await super().advance(sections)


async def test_import_stores_its_progress_and_stops_when_it_is_canceled(
    own_database_url: str, new_source: NewSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, url = Database(own_database_url), await new_source("sqlite")
    await write(url, dict(plan_permissions(USERS).tables))
    with monkeypatch.context() as patched:
        patched.setattr(import_record, "ImportRecord", CanceledAt)
        with pytest.raises(ImportCanceled, match="the same command resumes"):
            await run_import(database, url, PRESET, is_recorded=True)

    canceled = await newest(database)
    sections = {each["section"]: each for each in canceled.sections}
    assert (canceled.state, canceled.source, canceled.ended_at is not None) == ("canceled", "plan-permissions", True)
    assert (sections["users"]["total"], sections["users"]["imported"]) == (USERS, USERS)
    assert sections["subscriptions"]["total"] > sections["subscriptions"]["imported"]

    done = await run_import(database, url, PRESET, is_recorded=True)
    assert (await newest(database)).state == "done"
    assert done.report.sections
    assert await balances(database) == plan_permissions(USERS).balances
    assert await differences(database) == []
    async with database.transaction() as connection:
        before, after = await imports.request_cancel(connection, (await newest(database)).id)
    assert before is after, "one that has ended stays as it is"
    await database.close()


async def test_import_that_refuses_rows_has_failed(own_database_url: str, new_source: NewSource) -> None:
    database, url = Database(own_database_url), await new_source("sqlite")
    tables = dict(plan_permissions(USERS).tables)
    tables["users"] = [*tables["users"], {**tables["users"][0], "id": 900, "email": "nobody"}]
    await write(url, tables)
    with pytest.raises(RowsRefused):
        await run_import(database, url, PRESET, is_strict=True, is_recorded=True)

    assert (await newest(database)).state == "failed"
    await database.close()
