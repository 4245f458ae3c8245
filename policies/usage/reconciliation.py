"""What the books of an account must agree on, and by how much they do not.

The movements of the ledger sum to the balance row. What is left of the grants sums to it too, or to nothing while it is
debt. And Redis agrees with PostgreSQL: its balance, with what open holds have set aside and with settled charges that
are not in PostgreSQL yet, is the balance row without the changes that Redis has not been told of yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Book(StrEnum):
    """What disagrees with the balance row. `changes` is the count of credit changes that Redis was told of."""

    LEDGER = "ledger"
    GRANTS = "grants"
    REDIS = "redis"
    CHANGES = "changes"


@dataclass(frozen=True, slots=True)
class Books:
    """An account in PostgreSQL at one instant, in credits: its balance row, its ledger's sum, its open grants' sum."""

    balance: int
    booked: int
    granted: int


@dataclass(frozen=True, slots=True)
class PostgresqlAccount:
    """What PostgreSQL has of an account that Redis must agree with.

    `untold` are the credit changes in the outbox: amount by sequence number, of which `credit_seq` is the last given.
    """

    balance: int
    credit_seq: int
    untold: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class RedisAccount:
    """An account in Redis at one instant. `unapplied` are journal charges that `PostgresqlAccount` lacks."""

    balance: int
    credit_seq: int
    held: int
    unapplied: int


@dataclass(frozen=True, slots=True)
class Difference:
    """What a book should say by the balance row, and what it says."""

    book: Book
    expected: int
    found: int

    @property
    def credits(self) -> int:
        """Signed; 0 for a difference that is none of credits."""
        return 0 if self.book is Book.CHANGES else self.found - self.expected


def in_postgresql(books: Books) -> tuple[Difference, ...]:
    """Where the books within PostgreSQL disagree."""
    return _unequal(
        Difference(Book.LEDGER, books.balance, books.booked),
        Difference(Book.GRANTS, max(0, books.balance), books.granted),
    )


def between_stores(cold: PostgresqlAccount, hot: RedisAccount) -> tuple[Difference, ...]:
    """Where Redis disagrees with PostgreSQL. PostgreSQL must be read first, and the usage writer must stand still.

    A lost change is a difference even where the credits agree: Redis would refuse the next one, or take it for known.
    """
    untold = {sequence: amount for sequence, amount in cold.untold.items() if sequence > hot.credit_seq}
    return _unequal(
        Difference(Book.REDIS, cold.balance - sum(untold.values()), hot.balance + hot.held + hot.unapplied),
        Difference(Book.CHANGES, cold.credit_seq, hot.credit_seq + len(untold)),
    )


def is_overtaken(cold: PostgresqlAccount, hot: RedisAccount) -> bool:
    """Whether credits were given or taken between the two readings, or Redis knows changes that PostgreSQL has lost."""
    return hot.credit_seq > cold.credit_seq


def correction(cold: PostgresqlAccount, hot: RedisAccount) -> int:
    """What to add to the hot balance, so that it is right once Redis takes all of PostgreSQL's changes for known."""
    return cold.balance - (hot.balance + hot.held + hot.unapplied)


def _unequal(*compared: Difference) -> tuple[Difference, ...]:
    return tuple(difference for difference in compared if difference.expected != difference.found)
