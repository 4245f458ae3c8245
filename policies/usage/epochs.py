"""Whether Redis and PostgreSQL have the same history of a partition, by the marks that each has of it.

Redis gets a mark after the commit that it stands for. So whoever reads Redis first and PostgreSQL afterwards finds
PostgreSQL at least as far, unless PostgreSQL has lost commits: a backup was restored, or a standby was promoted that
lacked them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from policies.usage.account_load import id_order


class RedisMarks(NamedTuple):
    """What a server of Redis has of a partition.

    `epoch` is empty if it has none, `is_same_run` says that this run of the server began it. `last_id` is the journal
    entry up to which PostgreSQL has confirmed the journal, `published` counts publications from the outbox.
    """

    epoch: str
    is_same_run: bool
    catalogue_version: int
    last_id: str
    published: int


class PostgresqlMarks(NamedTuple):
    """What PostgreSQL has of a partition. `epochs` counts the epochs begun, `epoch` is the last one.

    `epoch` is empty if none has begun, or a release without names of epochs began it.
    """

    epochs: int
    epoch: str
    catalogue_version: int
    last_id: str
    published: int


class Agreement(StrEnum):
    """How the stores compare. Anything but AGREED ends the epoch."""

    AGREED = "agreed"
    REDIS_LOST = "redis_lost"
    REDIS_BEHIND = "redis_behind"
    POSTGRESQL_BEHIND = "postgresql_behind"


def compare(redis: RedisMarks, postgresql: PostgresqlMarks | None) -> Agreement:
    """Redis must be read first. `postgresql` is None where there is nothing to compare with."""
    if not redis.epoch or not redis.is_same_run:
        return Agreement.REDIS_LOST
    if postgresql is None:
        return Agreement.AGREED
    if lost_by_postgresql(redis, postgresql):
        return Agreement.POSTGRESQL_BEHIND
    if postgresql.epoch not in ("", redis.epoch):
        return Agreement.REDIS_BEHIND
    return Agreement.AGREED


def lost_by_postgresql(redis: RedisMarks, postgresql: PostgresqlMarks) -> tuple[str, ...]:
    """What Redis was told of and PostgreSQL does not have."""
    ahead = {
        "catalogue": redis.catalogue_version > postgresql.catalogue_version,
        "journal": id_order(redis.last_id) > id_order(postgresql.last_id),
        "publications": redis.published > postgresql.published,
        "epoch": number_of(redis.epoch) > postgresql.epochs,
    }
    return tuple(name for name, is_ahead in ahead.items() if is_ahead)


def next_number(redis: RedisMarks | None, postgresql: PostgresqlMarks | None) -> int:
    """The number of the next epoch: greater than any that either store knows."""
    known = (number_of(redis.epoch) if redis else 0, postgresql.epochs if postgresql else 0)
    return max(known) + 1


def number_of(epoch: str) -> int:
    """An epoch is named by its number and a random word: `3-9f86d081884c7d65`. 0 for any other name."""
    number = epoch.partition("-")[0]
    return int(number) if number.isascii() and number.isdigit() else 0
