"""A mail of the gateway greets nobody by words that a stranger chose for somebody else's mailbox."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.clock import now
from gateway.ledger.accounts import users
from gateway.ledger.db import notifications
from gateway.ledger.db.session import Database
from gateway.notifications.email_templates import TemplateContext, render

CONTEXT = TemplateContext(secret="secret")


@pytest.fixture
async def own(own_database_url: str) -> AsyncIterator[Database]:
    database = Database(own_database_url)
    yield database
    await database.close()


@pytest.mark.parametrize("is_verified", [True, False])
async def test_only_an_owner_of_a_verified_address_is_greeted_by_name(own: Database, is_verified: bool) -> None:
    async with own.transaction() as connection:
        user = await users.create(
            connection, "ada@example.com", name="Ada", email_verified_at=now() if is_verified else None
        )
        await notifications.enqueue(connection, user.id, kind="credits.checked", payload={"percent": 80})
        leased = await notifications.lease(connection, limit=10, lease_seconds=60)
    assert {delivery.name for delivery in leased} == {"Ada" if is_verified else None}


@pytest.mark.parametrize("name", ["Ada", "Ada Lovelace", "J. R. R. Tolkien", "O'Brien-Smith", "Łukasz", "山田太郎"])
def test_name_is_in_the_greeting(name: str) -> None:
    assert render("credits.checked", {}, name=name, context=CONTEXT).text.startswith(f"Hello {name},\n")


@pytest.mark.parametrize(
    "name",
    [
        *("Ada,\n\nyour account is blocked: https://evil.example", "https://evil.example", "www evil", "evil.example"),
        *("a@evil.example", "evil\u2028x", "\u202eadA", "x" * 61, "", None),
    ],
)
def test_text_that_is_no_name_is_not_in_the_greeting(name: str | None) -> None:
    assert render("credits.checked", {}, name=name, context=CONTEXT).text.startswith("Hello,\n")
