"""Copies usage to a folder of Parquet files, one for each hour, in which each row is once.

The file of an hour is made of all its rows, and replaced whenever one of them is added or changed: by a late
settlement, a correction, an erasure. One transaction takes the marks of the hour and reads its rows; it commits once
the file is on disk under its name. A crash before that leaves the marks, and the file is made once more. Of an hour
whose month PostgreSQL has dropped, the files themselves are read, and replaced without what was erased.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import metrics
from gateway.ledger.accounts import users
from gateway.ledger.accounts.erasure import PERSONAL_COLUMNS
from gateway.ledger.db.session import Database
from gateway.ledger.usage import sink_hours
from gateway.workers.usage.archives import export_gzip

HOURS_PER_RUN = 24

_DRAFTS = ".draft-"
_OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})

log = structlog.get_logger(__name__)


class _FolderUnfit(Exception):  # noqa: N818 - named for the condition
    """Nothing can be written to the folder, whatever the hour."""


class UsageSink:
    """The worker that keeps the folder. Any number may run, one at a time writes. Needs the extra `parquet`."""

    idle_seconds = 60.0

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._failed: set[datetime] = set()  # in this pass

    async def run_once(self) -> int:
        """Gives how many hours it went through; 0 if none remains, or the folder cannot be written.

        An hour that fails is tried again after all others.
        """
        async with self._database.transaction() as connection:
            if await sink_hours.renew(connection):
                log.info("usage_sink_begun", folder=str(self._folder))
        async with self._database.read() as connection:
            hours = await sink_hours.list_due(connection, limit=HOURS_PER_RUN, without=self._failed)
        passed = await self._copy_all(hours)
        if passed < HOURS_PER_RUN:
            self._failed.clear()
        async with self._database.read() as connection:
            metrics.USAGE_SINK_LAG.set(await sink_hours.lag_seconds(connection))
        return passed if passed == HOURS_PER_RUN else 0

    async def _copy_all(self, hours: Iterable[datetime]) -> int:
        """Gives how many hours were copied or failed; what concerns every hour ends it."""
        passed = 0
        for hour in hours:
            try:
                passed += await self._copy(hour)
            except (OSError, _FolderUnfit) as error:
                reason = getattr(error, "strerror", None) or str(error)
                at = hour.astimezone(UTC).isoformat()
                log.error("usage_sink_failed", folder=str(self._folder), hour=at, reason=reason)
                if isinstance(error, _FolderUnfit) or error.errno in _OUT_OF_SPACE:
                    break
                self._failed.add(hour)
                passed += 1
        return passed

    async def _copy(self, hour: datetime) -> bool:
        """False if another process writes, or has written it.

        Raises _FolderUnfit, and OSError; nothing is changed then but the file, which is complete.
        """
        async with self._database.transaction() as connection:
            if not await sink_hours.claim(connection, hour):
                return False
            drafts = await asyncio.to_thread(self._make_drafts)
            try:
                rows, _ = await export_gzip(drafts / "csv", partial(sink_hours.export_csv, connection, hour))
                drops = await sink_hours.count_drops(connection, hour)
                if rows:
                    in_month = await sink_hours.has_partition(connection, hour)
                    await asyncio.to_thread(self._publish, drafts, hour, in_month=in_month, drops=drops)
                if drops:
                    await self._erase(connection, drafts, hour)
            finally:
                shutil.rmtree(drafts, ignore_errors=True)
        return True

    def _make_drafts(self) -> Path:
        """A new folder, the only one: a process that lost its connection, and the lock, can publish nothing more.

        Raises _FolderUnfit.
        """
        drafts = self._folder / f"{_DRAFTS}{secrets.token_hex(8)}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for other in self._folder.glob(f"{_DRAFTS}*"):
                shutil.rmtree(other)
            drafts.mkdir(mode=0o700)
        except OSError as error:
            raise _FolderUnfit(error.strerror or str(error)) from error
        return drafts

    def _publish(self, drafts: Path, hour: datetime, *, in_month: bool, drops: int) -> None:
        """Rows that came after their month was dropped get a file beside the one of the hour, which stays.

        So do those that came after the month was made once more, and dropped again.
        """
        from gateway.workers.usage import parquet  # here, since it needs an extra

        parquet.convert(drafts / "csv", drafts / "parquet", "usage_tracking")
        folder = self._folder / f"date={hour.astimezone(UTC):%Y-%m-%d}"
        folder.mkdir(mode=0o700, exist_ok=True)
        name = f"usage-{hour.astimezone(UTC):%H}"
        beside = folder / (f"{name}-default-{drops}.parquet" if drops > 1 else f"{name}-default.parquet")
        is_whole = in_month and not drops
        (drafts / "parquet").replace(folder / f"{name}.parquet" if is_whole else beside)
        if is_whole:
            for other in folder.glob(f"{name}-default*.parquet"):
                other.unlink()
        _sync_names(folder)
        _sync_names(self._folder)

    async def _erase(self, connection: AsyncConnection, drafts: Path, hour: datetime) -> None:
        """Empties the rows of deleted users in files that PostgreSQL cannot give again, since it dropped the month."""
        at = hour.astimezone(UTC)
        for file in sorted((self._folder / f"date={at:%Y-%m-%d}").glob(f"usage-{at:%H}*.parquet")):
            named = await asyncio.to_thread(_users_named_in, file)
            if erased := await users.list_deleted(connection, named):
                await asyncio.to_thread(_replace_without, erased, file, drafts / "parquet")


def _users_named_in(file: Path) -> set[UUID]:
    from gateway.workers.usage import parquet  # here, since it needs an extra

    return parquet.users_with(file, PERSONAL_COLUMNS)


def _replace_without(user_ids: Collection[UUID], file: Path, draft: Path) -> None:
    from gateway.workers.usage import parquet  # as above

    parquet.empty(file, draft, PERSONAL_COLUMNS, user_ids=user_ids)
    draft.replace(file)
    _sync_names(file.parent)


def _sync_names(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
