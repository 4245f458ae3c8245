"""How the API changes things: one transaction, audit rows included; then Redis is told; then the answer goes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass

import structlog
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.audit import audit_log
from gateway.ledger.db.session import Database, DatabaseUnavailable
from gateway.meter.client.client import MeterError, MeterUnavailable

Publish = Callable[[], Awaitable[None]]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction under way, and who is behind it."""

    connection: AsyncConnection
    actor: str

    async def note(
        self,
        action: str,
        entity: str,
        *,
        entity_id: object,
        before: BaseModel | None = None,
        after: BaseModel | None = None,
        reason: str | None = None,
    ) -> None:
        """Writes the audit row. `before` and `after` are what the API shows of a thing, so they hold no secret."""
        await audit_log.append(
            self.connection,
            actor=self.actor,
            action=action,
            entity=entity,
            entity_id=entity_id,
            before=None if before is None else before.model_dump(mode="json"),
            after=None if after is None else after.model_dump(mode="json"),
            reason=reason,
        )


class Herald:
    """One publication at a time, shared by all that was committed before it began.

    So changes in a crowd neither queue for publishing one by one nor take the database connections that others need.
    `publish` tells Redis all that has been committed.
    """

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None

    async def tell(self) -> None:
        """Returns when a publication that began after the call is done; raises what it raised."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._publish_next())
            self._next.add_done_callback(_seen)
        await asyncio.shield(self._next)

    async def _publish_next(self) -> None:
        async with self._lock:
            self._next = None  # it begins now: what is committed from here on needs another
            await self._publish()


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # who waited for it may be gone; the failure is theirs to see, not the loop's to report


class Desk:
    """Where requests of one actor read and change the ledger. The desks of a process share one herald.

    With `joined`, a transaction under way, it reads and changes within that one, which someone else commits and tells.
    """

    def __init__(
        self, database: Database, herald: Herald, *, actor: str, joined: AsyncConnection | None = None
    ) -> None:
        self._database = database
        self._herald = herald
        self._actor = actor
        self._joined = joined

    def of(self, actor: str, *, joined: AsyncConnection | None) -> Desk:
        """The desk of somebody else, before the same herald."""
        return Desk(self._database, self._herald, actor=actor, joined=joined)

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._database.read() if self._joined is None else nullcontext(self._joined)

    @asynccontextmanager
    async def change(self) -> AsyncIterator[Change]:
        """Commits at the end of the block and returns when Redis knows, so that the next request meets the change.

        Where Redis cannot be told, the change stands all the same and the outbox worker tells it later. Raises
        DatabaseUnavailable.
        """
        if self._joined is not None:
            async with self._joined.begin_nested():
                yield Change(self._joined, self._actor)
            return
        async with self._database.transaction() as connection:
            yield Change(connection, self._actor)
        await self.announce()

    async def announce(self) -> None:
        """Tells Redis what was committed; where it cannot be told, the outbox worker will."""
        try:
            await self._herald.tell()
        except (MeterUnavailable, MeterError, DatabaseUnavailable) as error:
            _log.warning("a change waits for the outbox worker", reason=str(error))
