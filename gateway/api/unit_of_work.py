"""How the API changes things: one transaction with its audit rows, then the publication to Redis, then the response."""

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
from gateway.meter.client.errors import MeterError, MeterUnavailable

Publish = Callable[[], Awaitable[None]]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction under way, and the actor that the audit log names."""

    connection: AsyncConnection
    actor: str

    async def record(
        self,
        action: str,
        entity: str,
        *,
        entity_id: object,
        before: BaseModel | None = None,
        after: BaseModel | None = None,
        reason: str | None = None,
    ) -> None:
        """Appends the audit row. `before` and `after` are response models, which hold no secret."""
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


class ChangePublisher:
    """Publishes committed changes to Redis; concurrent callers share one publication.

    A publication serves every change that was committed before it began. So changes do not queue for publications, and
    publications do not occupy the database connections that changes need.
    """

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None

    async def publish(self) -> None:
        """Returns when a publication that began after the call is done; raises what it raised."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._publish_next())
            self._next.add_done_callback(_retrieve_exception)
        await asyncio.shield(self._next)

    async def _publish_next(self) -> None:
        async with self._lock:
            self._next = None  # changes that are committed from here on need another publication
            await self._publish()


def _retrieve_exception(task: asyncio.Task[None]) -> None:
    """Keeps the loop from logging a failure whose callers were cancelled; callers that remain raise it themselves."""
    if not task.cancelled():
        task.exception()


class UnitOfWork:
    """Reads and changes the database for one actor, then publishes what was committed.

    With `enclosing`, a transaction under way, it works in a savepoint of that one; who opened it commits and publishes.
    """

    def __init__(
        self,
        database: Database,
        publisher: ChangePublisher,
        *,
        actor: str,
        enclosing: AsyncConnection | None = None,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._actor = actor
        self._enclosing = enclosing

    def for_actor(self, actor: str, *, enclosing: AsyncConnection | None) -> UnitOfWork:
        return UnitOfWork(self._database, self._publisher, actor=actor, enclosing=enclosing)

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._database.read() if self._enclosing is None else nullcontext(self._enclosing)

    @asynccontextmanager
    async def change(self) -> AsyncIterator[Change]:
        """Commits at the end of the block and returns when Redis knows, so that the next request meets the change.

        Where Redis cannot be reached, the change stands and the outbox worker publishes it later. Raises
        DatabaseUnavailable.
        """
        if self._enclosing is not None:
            async with self._enclosing.begin_nested():
                yield Change(self._enclosing, self._actor)
            return
        async with self._database.transaction() as connection:
            yield Change(connection, self._actor)
        await self.publish()

    async def publish(self) -> None:
        """Publishes what was committed; a failure is logged, and the outbox worker publishes later."""
        try:
            await self._publisher.publish()
        except (MeterUnavailable, MeterError, DatabaseUnavailable) as error:
            _log.warning("publication_deferred", reason=str(error))
