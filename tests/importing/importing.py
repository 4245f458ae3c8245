"""Imports as a test runs them, and the books of all accounts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from sqlalchemy import text

from gateway.clock import now
from gateway.importing.import_record import record_import
from gateway.importing.importer import Importer, ImportReport, Observer
from gateway.importing.mapping import SourceMapping, load_preset
from gateway.importing.records import Problem
from gateway.importing.sections import Section
from gateway.importing.source import open_source
from gateway.importing.targets import Target
from gateway.ledger.accounts.principals import find_principal
from gateway.ledger.credits import reconciliation
from gateway.ledger.db.session import Database
from policies.access.keys import lookup_digests
from policies.usage.reconciliation import in_postgresql

PEPPERS = {1: b"old pepper", 2: b"new pepper"}
# What an import writes; a repeated one leaves each as it is.
WRITTEN = (
    *("products", "subscription_plans", "permissions", "plan_permissions", "users", "provider_customers"),
    *("subscriptions", "user_credits", "credit_grants", "credit_ledger", "api_keys", "payment_transactions"),
    *("usage_tracking", "usage_hours", "analysis_history", "audit_log", "outbox", "catalogue", "invoices"),
)

Progress = Callable[[Section, int, int], None]


@dataclass
class Imported:
    report: ImportReport
    problems: list[Problem] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        return {str(name): counts.imported for name, counts in self.report.sections.items()}

    @property
    def refused(self) -> list[tuple[str, str, str | None]]:
        """(section, row, column) of each problem."""
        return [(str(each.section), each.row, each.column) for each in self.problems]


async def run_import(
    database: Database,
    url: str,
    mapping: SourceMapping | str,
    *,
    is_dry: bool = False,
    is_strict: bool = False,
    progress: Progress | None = None,
    is_recorded: bool = False,
) -> Imported:
    described = load_preset(mapping) if isinstance(mapping, str) else mapping
    target = Target(source=described.source, now=now(), key_prefix="gw", peppers=PEPPERS, is_dry=is_dry)
    problems: list[Problem] = []
    observer = Observer(problem=problems.append, progress=progress or _ignored)
    record = record_import(database, described.source) if is_recorded else nullcontext()
    async with open_source(url) as source, record as found:
        importer = Importer(database, source, target, observer=observer, is_strict=is_strict, record=found)
        return Imported(await importer.run(described), problems)


def _ignored(_section: Section, _done: int, _total: int) -> None:
    pass


async def snapshot(database: Database) -> dict[str, str]:
    """A digest of all rows of each table that an import writes."""
    async with database.read() as connection:
        return {
            table: await connection.scalar(
                text(f"SELECT md5(coalesce(string_agg(t::text, '' ORDER BY t::text), '')) FROM {table} t")  # noqa: S608
            )
            for table in WRITTEN
        }


async def balances(database: Database) -> dict[str, int]:
    """The balances of all users, by address."""
    query = "SELECT u.email, c.current_credits FROM users u JOIN user_credits c ON c.user_id = u.id"
    async with database.read() as connection:
        return {row.email: row.current_credits for row in await connection.execute(text(query))}


async def differences(database: Database) -> list[object]:
    """Where the ledger, the grants and the balance of an account differ."""
    async with database.read() as connection:
        ids = await reconciliation.list_account_ids(connection, after=None, limit=10_000)
        books = await reconciliation.get_books(connection, ids)
    return [difference for each in books.values() for difference in in_postgresql(each)]


async def owners(database: Database, secrets: Sequence[str]) -> dict[str, str]:
    """Whose each of the keys is by the lookup of a call, by address."""
    found = {}
    async with database.read() as connection:
        for secret in secrets:
            for digest in lookup_digests("gw", secret.encode(), PEPPERS):
                if (principal := await find_principal(connection, digest)) is not None:
                    query = text("SELECT email FROM users WHERE id = :id")
                    found[secret] = await connection.scalar(query, {"id": principal.account.id})
    return found
