"""Which books agree, in numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.usage.reconciliation import (
    Book,
    Books,
    Difference,
    PostgresqlAccount,
    RedisAccount,
    between_stores,
    correction,
    in_postgresql,
    is_overtaken,
)


@pytest.mark.parametrize(
    ("books", "differences"),
    [
        (Books(balance=5, booked=5, granted=5), ()),
        (Books(balance=-5, booked=-5, granted=0), ()),
        (Books(balance=0, booked=0, granted=0), ()),
        (Books(balance=5, booked=4, granted=5), (Difference(Book.LEDGER, 5, 4),)),
        (Books(balance=5, booked=5, granted=7), (Difference(Book.GRANTS, 5, 7),)),
        (Books(balance=-5, booked=-5, granted=1), (Difference(Book.GRANTS, 0, 1),)),
        (Books(balance=5, booked=0, granted=0), (Difference(Book.LEDGER, 5, 0), Difference(Book.GRANTS, 5, 0))),
    ],
)
def test_books_within_postgresql_are_compared(books: Books, differences: tuple[Difference, ...]) -> None:
    assert in_postgresql(books) == differences


@pytest.mark.parametrize(
    ("cold", "hot", "differences"),
    [
        (PostgresqlAccount(10, 1, {}), RedisAccount(balance=4, credit_seq=1, held=5, unapplied=1), ()),
        (PostgresqlAccount(10, 2, {2: 6}), RedisAccount(balance=4, credit_seq=1, held=0, unapplied=0), ()),
        (PostgresqlAccount(10, 2, {2: 6}), RedisAccount(balance=10, credit_seq=2, held=0, unapplied=0), ()),
        (PostgresqlAccount(10, 3, {2: 6, 3: -2}), RedisAccount(balance=12, credit_seq=2, held=0, unapplied=0), ()),
        (
            PostgresqlAccount(10, 1, {}),
            RedisAccount(balance=10, credit_seq=1, held=0, unapplied=1),
            (Difference(Book.REDIS, 10, 11),),
        ),
        (
            PostgresqlAccount(10, 3, {3: 1}),
            RedisAccount(balance=9, credit_seq=1, held=0, unapplied=0),
            (Difference(Book.CHANGES, 3, 2),),
        ),
        (
            PostgresqlAccount(10, 1, {}),
            RedisAccount(balance=10, credit_seq=4, held=0, unapplied=0),
            (Difference(Book.CHANGES, 1, 4),),
        ),
    ],
)
def test_redis_is_compared_with_postgresql(
    cold: PostgresqlAccount, hot: RedisAccount, differences: tuple[Difference, ...]
) -> None:
    assert between_stores(cold, hot) == differences


def test_reading_is_overtaken_only_by_changes_that_postgresql_lacked() -> None:
    hot = RedisAccount(balance=0, credit_seq=3, held=0, unapplied=0)
    assert [is_overtaken(PostgresqlAccount(0, sequence, {}), hot) for sequence in (2, 3, 4)] == [True, False, False]


amounts = st.integers(-(10**9), 10**9)
sizes = st.integers(0, 10**9)
counts = st.integers(0, 5)


@given(balance=amounts, changes=st.lists(amounts, max_size=5), hot=st.tuples(amounts, counts, sizes, sizes))
def test_corrected_redis_agrees_with_postgresql(
    balance: int, changes: list[int], hot: tuple[int, int, int, int]
) -> None:
    cold = PostgresqlAccount(balance, len(changes), dict(enumerate(changes, 1)))
    wrong = RedisAccount(*hot)
    right = RedisAccount(wrong.balance + correction(cold, wrong), cold.credit_seq, wrong.held, wrong.unapplied)
    assert between_stores(cold, right) == ()


def test_lost_change_counts_no_credits() -> None:
    assert [Difference(book, 3, 5).credits for book in (Book.REDIS, Book.CHANGES)] == [2, 0]
