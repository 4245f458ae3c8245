"""Each store that has gone back is told by what the other has of it."""

from __future__ import annotations

import pytest

from policies.usage.epochs import (
    Agreement,
    PostgresqlMarks,
    RedisMarks,
    compare,
    lost_by_postgresql,
    next_number,
    number_of,
)

REDIS = RedisMarks("3-a", is_same_run=True, catalogue_version=7, last_id="9-1", published=4)
POSTGRESQL = PostgresqlMarks(3, "3-a", 7, "9-1", 4)


@pytest.mark.parametrize(
    ("redis", "postgresql", "expected"),
    [
        (REDIS, POSTGRESQL, Agreement.AGREED),
        (REDIS, POSTGRESQL._replace(catalogue_version=8, last_id="9-2", published=5), Agreement.AGREED),
        (REDIS, None, Agreement.AGREED),
        (REDIS, POSTGRESQL._replace(epochs=4, epoch=""), Agreement.AGREED),
        (REDIS._replace(epoch=""), POSTGRESQL, Agreement.REDIS_LOST),
        (REDIS._replace(is_same_run=False), POSTGRESQL, Agreement.REDIS_LOST),
        (REDIS, POSTGRESQL._replace(epochs=4, epoch="4-b"), Agreement.REDIS_BEHIND),
        (REDIS, POSTGRESQL._replace(epoch="3-b"), Agreement.REDIS_BEHIND),
        (REDIS, POSTGRESQL._replace(epochs=2, epoch="2-a"), Agreement.POSTGRESQL_BEHIND),
        (REDIS, POSTGRESQL._replace(catalogue_version=6), Agreement.POSTGRESQL_BEHIND),
        (REDIS, POSTGRESQL._replace(last_id="8-20"), Agreement.POSTGRESQL_BEHIND),
        (REDIS, POSTGRESQL._replace(published=3), Agreement.POSTGRESQL_BEHIND),
    ],
)
def test_stores_are_compared_by_their_marks(
    redis: RedisMarks, postgresql: PostgresqlMarks | None, expected: Agreement
) -> None:
    assert compare(redis, postgresql) is expected


def test_lost_commits_are_named() -> None:
    assert lost_by_postgresql(REDIS, PostgresqlMarks(0, "", 0, "0-0", 0)) == (
        "catalogue",
        "journal",
        "publications",
        "epoch",
    )


def test_next_epoch_has_a_number_that_neither_store_knows() -> None:
    assert next_number(REDIS, POSTGRESQL._replace(epochs=1)) == 4
    assert next_number(REDIS._replace(epoch="older"), POSTGRESQL) == 4
    assert next_number(None, None) == 1
    assert [number_of(name) for name in ("12-ab", "ab", "", "²-x")] == [12, 0, 0, 0]
