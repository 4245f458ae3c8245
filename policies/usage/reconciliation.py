"""What the books of an account must agree on, and the differences if they do not.

The ledger's movements sum to the balance row. The remaining credits of the grants sum to it too, or to zero while the
balance is a debt. Redis agrees with PostgreSQL: the balance in Redis, plus open holds, plus settled charges that
PostgreSQL lacks, is the balance row without the credit changes that are not published to Redis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Book(StrEnum):
    """What disagrees with the balance row. `changes` is the count of credit changes that Redis has."""

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

    `unpublished` are the credit changes in the outbox: amount by sequence number. `credit_seq` is the last number.
    """

    balance: int
    credit_seq: int
    unpublished: Mapping[int, int]


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


def between_stores(stored: PostgresqlAccount, loaded: RedisAccount) -> tuple[Difference, ...]:
    """Where Redis disagrees with PostgreSQL. PostgreSQL must be read first, and the usage writer must stand still.

    A lost change is a difference even if the credits agree: Redis would refuse the next one, or ignore it.
    """
    unpublished = [amount for sequence, amount in stored.unpublished.items() if sequence > loaded.credit_seq]
    return _unequal(
        Difference(Book.REDIS, stored.balance - sum(unpublished), loaded.balance + loaded.held + loaded.unapplied),
        Difference(Book.CHANGES, stored.credit_seq, loaded.credit_seq + len(unpublished)),
    )


def is_overtaken(stored: PostgresqlAccount, loaded: RedisAccount) -> bool:
    """Whether credits changed between the two readings, or Redis has changes that PostgreSQL has lost."""
    return loaded.credit_seq > stored.credit_seq


def correction(stored: PostgresqlAccount, loaded: RedisAccount) -> int:
    """What to add to the balance in Redis, if Redis then counts all of PostgreSQL's changes as applied."""
    return stored.balance - (loaded.balance + loaded.held + loaded.unapplied)


def _unequal(*compared: Difference) -> tuple[Difference, ...]:
    return tuple(difference for difference in compared if difference.expected != difference.found)
