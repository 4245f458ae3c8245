"""What an operator bounds in a source, or in the database here, ends no import."""

from __future__ import annotations

import time

import pytest

from gateway.importing.mapping import SourceMapping
from gateway.importing.sections import Section
from gateway.ledger.db.session import Database
from tests.importing.conftest import NewSource
from tests.importing.examples import email, write
from tests.importing.importing import balances, run_import
from tests.support import databases


@pytest.mark.parametrize("is_dry", [False, True])
async def test_import_takes_as_long_as_it_takes_where_transactions_are_bounded(
    own_database_url: str, new_source: NewSource, is_dry: bool
) -> None:
    url = await new_source("postgresql")
    await write(url, {"people": [{"id": n, "mail": email(n)} for n in range(3)]})
    users = {"table": "people", "key": "id", "fields": {"email": "mail"}}
    mapping = SourceMapping.model_validate({"source": "acme", "users": users})
    for each in (url, own_database_url):
        await databases.bound_transactions(each)
    target = Database(own_database_url)

    def wait(_section: Section, _done: int, _total: int) -> None:
        time.sleep(1.2)

    done = await run_import(target, url, mapping, is_dry=is_dry, progress=wait)
    assert (done.counts, done.problems) == ({"users": 3}, [])
    assert len(await balances(target)) == (0 if is_dry else 3)
    await target.close()
