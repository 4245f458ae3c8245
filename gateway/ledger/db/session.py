"""Opens and commits all transactions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from functools import partial
from typing import Any

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.engine import URL, Dialect, ExceptionContext, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from gateway.clock import monotonic_seconds
from gateway.ledger.db.driver_connection import DriverConnection
from gateway.postgres_url import PostgresUrl, open_tls, parse_postgres_url

# Shorter than clients wait; the data plane serves cached principals meanwhile.
CONNECT_TIMEOUT_SECONDS = 2.0

# A pooled connection that has been idle for longer is asked whether it lives. What a server that stops says is read by
# then, and costs no question; a network that is cut says nothing.
UNASKED_SECONDS = 1.0

# The client's timeout exceeds the server's by this; past it the server counts as dead.
GRACE_SECONDS = 1.0

# Classes of errors that mean an outage (PostgreSQL, appendix A): connection exceptions, insufficient resources,
# operator intervention (shutdown, startup, statement timeout), rejected credentials and missing databases; and
# transactions that were rolled back for the sake of another one (deadlocks), which may be tried again as well.
OUTAGE_CLASSES = ("08", "53", "57", "28", "3D", "40")
# A database that is being copied or moved takes no connections (55000); a standby takes no writes (25006).
LOCK_NOT_AVAILABLE, NOT_ACCEPTING, READ_ONLY = "55P03", "55000", "25006"

_OF_ASYNCPG = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresError,
)  # TimeoutError is an OSError


class DatabaseUnavailable(Exception):  # noqa: N818 - a state of the world, answered with 503
    """PostgreSQL is unreachable or too slow. Whether a commit in progress took effect is unknown."""


CommitStep = Callable[[AsyncConnection, list[Any]], Awaitable[None]]

AUDIT_KEYS = "audit_keys"  # where `connection.info` has the keys of the connection's Database
_COMMIT_STEPS = "commit_steps"
_RETURNED_AT = "returned_at"


class InvalidDatabaseUrl(ValueError):  # noqa: N818 - named for the condition
    """The URL is not a PostgreSQL URL."""


class PoolBusy(DatabaseUnavailable):
    """All connections of this process's pool are in use: that says nothing of PostgreSQL."""


@contextmanager
def outages_typed() -> Iterator[None]:
    """Translates outages where the engine does not: when connecting, and around direct use of asyncpg."""
    try:
        yield
    except (*_OF_ASYNCPG, DBAPIError, PoolTimeout) as error:
        unavailable = _outage(error)
        if unavailable is None:
            raise
        raise unavailable from error


@contextmanager
def _outages_typed_while_connecting() -> Iterator[None]:
    with outages_typed():
        try:
            yield
        except (DBAPIError, asyncpg.PostgresError) as error:
            if _code_of(error) == NOT_ACCEPTING:
                raise DatabaseUnavailable(f"the database cannot serve: {_cause_of(error)}") from error
            raise


def before_commit(connection: AsyncConnection, step: CommitStep, item: Any) -> None:
    """Collects `item` for `step`, which the transaction runs once, with all its items, right before it commits."""
    connection.info.setdefault(_COMMIT_STEPS, {}).setdefault(step, []).append(item)


async def run_commit_steps(connection: AsyncConnection) -> None:
    """Runs what `before_commit` collected; `Database.transaction` does so itself."""
    for step, items in connection.info.pop(_COMMIT_STEPS, {}).items():
        await step(connection, items)


class Database:
    """A pool of connections to one PostgreSQL.

    `statement_timeout_seconds` and `lock_timeout_seconds` bound every statement, 0 means unbounded. `audit_keys` seal
    the entries of the audit log (`audit_chain.keys_of`). Every method may raise DatabaseUnavailable.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 5,
        statement_timeout_seconds: float = 10.0,
        lock_timeout_seconds: float = 5.0,
        audit_keys: Mapping[int, bytes] | None = None,
    ) -> None:
        self.url = url
        self._audit_keys = audit_keys or {}
        parsed = _parse(url)
        self._connect_args = _connect_args(parsed, statement_timeout_seconds, lock_timeout_seconds=lock_timeout_seconds)
        self._engine = create_async_engine(
            _sqlalchemy_url(parsed),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=CONNECT_TIMEOUT_SECONDS,
            connect_args=self._connect_args,
        )
        self._driver = DriverConnection(self._connect)
        engine = self._engine.sync_engine
        event.listen(engine, "handle_error", _type_outage)
        event.listen(engine, "checkin", _note_return)
        event.listen(engine, "checkout", partial(_check_alive, engine.dialect))
        # What ends a connection of the pool, such as a failover, concerns the connection beside it too.
        event.listen(engine, "invalidate", lambda *_: self._driver.terminate())

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Commits at the end of the block; rolls back when it raises or is cancelled.

        Steps collected by `before_commit` run last, unless the block itself rolled back.
        """
        async with self._connection() as connection, connection.begin():
            connection.info[AUDIT_KEYS] = self._audit_keys
            connection.info.pop(_COMMIT_STEPS, None)  # of a transaction before that was rolled back
            yield connection
            if connection.in_transaction():
                await run_commit_steps(connection)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A read-only transaction."""
        async with self._connection() as connection:
            yield await connection.execution_options(postgresql_readonly=True)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """A read-only transaction whose statements all see the moment of the first one."""
        async with self._connection() as connection:
            options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            yield await connection.execution_options(**options)

    @asynccontextmanager
    async def look_up(self) -> AsyncIterator[AsyncConnection]:
        """For statements that read, each by itself: without a transaction they cost a third of the round trips."""
        async with self._connection() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """The rows of a statement that reads, as asyncpg gives them, by the connection beside the pool."""
        with outages_typed():
            return await self._driver.fetch(query, *arguments)

    async def ping(self) -> None:
        """Returns once the database answers."""
        async with self.read() as connection:
            await connection.execute(text("SELECT 1"))

    async def now(self) -> datetime:
        """The time by which periods and credits end: one for all hosts, whose own clocks may be wrong."""
        async with self.read() as connection:
            instant: datetime = (await connection.execute(text("SELECT now()"))).scalar_one()
        return instant

    async def check_writable(self) -> None:
        """Raises DatabaseUnavailable for a standby, and for a database that is set to read only."""
        query = "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean"
        async with self.read() as connection:
            if (await connection.execute(text(query))).scalar_one():
                raise DatabaseUnavailable("the database takes no writes: it is a standby, or set to read only")

    async def close(self) -> None:
        await self._driver.close()
        await self._engine.dispose()

    async def _connect(self) -> asyncpg.Connection:
        _, arguments = self._engine.dialect.create_connect_args(self._engine.url)
        with _outages_typed_while_connecting():
            return await asyncpg.connect(**{**arguments, **self._connect_args})

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        async with AsyncExitStack() as stack:
            with _outages_typed_while_connecting():
                connection = await stack.enter_async_context(self._engine.connect())
            # Outside `outages_typed`: a timeout that the block raises is no outage of the database.
            yield connection

    def __repr__(self) -> str:
        return f"<Database {self._engine.url.render_as_string(hide_password=True)}: {self._engine.pool.status()}>"


async def lift_timeouts(connection: AsyncConnection) -> None:
    """Lets the transaction last, and wait for what is done with its rows, whatever operators have set for others."""
    await connection.execute(_LIFT)


# PostgreSQL knows transaction_timeout from 17 on.
_LIFT = text("""
    SELECT set_config(name, '0', true) FROM pg_settings
     WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
""")


def _parse(url: str) -> PostgresUrl:
    try:
        return parse_postgres_url(url)
    except ValueError as error:
        raise InvalidDatabaseUrl(f"database.url: {error}") from None


def _sqlalchemy_url(parsed: PostgresUrl) -> URL:
    try:
        return make_url(parsed.url)
    except ArgumentError:
        # The URL contains a password, so the message does not.
        raise InvalidDatabaseUrl("database.url: expected postgresql://user:password@host:port/name") from None


def _connect_args(
    parsed: PostgresUrl, statement_timeout_seconds: float, *, lock_timeout_seconds: float
) -> dict[str, Any]:
    # The server's limit ends a slow statement; the client's, a little later, detects a frozen server.
    client_timeout = statement_timeout_seconds + GRACE_SECONDS if statement_timeout_seconds else None
    try:
        arguments = open_tls(parsed.arguments)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidDatabaseUrl(f"database.url: a certificate cannot be read: {error}") from error
    return {
        "timeout": CONNECT_TIMEOUT_SECONDS,
        "command_timeout": client_timeout,
        **arguments,
        "server_settings": {
            "application_name": "gateway",
            **parsed.server_settings,
            "timezone": "UTC",
            "datestyle": "ISO",  # COPY writes moments by it, and reads 05/11 as May or November
            "statement_timeout": str(int(statement_timeout_seconds * 1000)),
            "lock_timeout": str(int(lock_timeout_seconds * 1000)),
        },
    }


def _note_return(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.info[_RETURNED_AT] = monotonic_seconds()


def _check_alive(dialect: Dialect, connection: DBAPIConnection, record: ConnectionPoolEntry, _: Any) -> None:
    """Raises DisconnectionError, so that the pool opens another connection: a restarted server causes no error."""
    driver_connection = record.driver_connection
    if driver_connection is not None and driver_connection.is_closed():
        raise DisconnectionError("the server has closed the connection")
    returned_at = record.info.get(_RETURNED_AT)
    if returned_at is None or monotonic_seconds() - returned_at < UNASKED_SECONDS:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise DisconnectionError("the server does not answer") from error


def _type_outage(context: ExceptionContext) -> BaseException | None:
    if _code_of(context.original_exception) == READ_ONLY and not _is_read(context):
        # The name leads elsewhere now, or the server will: each connection of the pool is replaced at its next use.
        context.is_disconnect = context.invalidate_pool_on_disconnect = True
        return DatabaseUnavailable("the database takes no writes: it is a standby, or set to read only")
    if isinstance(_cause_of(context.original_exception), asyncpg.InternalClientError):
        context.is_disconnect = True
    return _outage(context.original_exception)


def _is_read(context: ExceptionContext) -> bool:
    """Whether the transaction is one of `Database.read`, in which no server takes writes."""
    return context.connection is not None and "postgresql_readonly" in context.connection.get_execution_options()


def _outage(error: BaseException) -> DatabaseUnavailable | None:
    if isinstance(error, PoolTimeout):
        return PoolBusy("every connection of the pool is busy")
    cause, code = _cause_of(error), _code_of(error)
    if code.startswith(OUTAGE_CLASSES) or code == LOCK_NOT_AVAILABLE:
        return DatabaseUnavailable(f"the database cannot serve: {cause}")
    if isinstance(cause, asyncpg.InternalClientError):  # the server has ended the connection while nothing was asked
        return DatabaseUnavailable(f"the connection to the database is broken: {cause}")
    if isinstance(cause, OSError) or (isinstance(cause, asyncpg.InterfaceError) and "is closed" in str(cause)):
        return DatabaseUnavailable(f"the database is out of reach: {str(cause) or type(cause).__name__}")
    return None


def _cause_of(error: BaseException) -> BaseException | None:
    """SQLAlchemy wraps its adapter's error, which wraps asyncpg's."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return cause.__cause__ if cause is not None and not isinstance(cause, _OF_ASYNCPG) else cause


def _code_of(error: BaseException) -> str:
    return getattr(_cause_of(error), "sqlstate", None) or ""
