"""Both stores of a data directory: the first process starts and owns them, later processes join as guests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import structlog

from gateway.clock import monotonic_seconds
from gateway.embedded import endpoints, postgres, valkey
from gateway.embedded.endpoints import Endpoint, Endpoints
from gateway.embedded.errors import DataDirBusyError, DataDirUnusableError, EmbeddedError, StoreFailedError
from gateway.embedded.locks import FileLock, lock_holder, prepare_data_dir
from gateway.embedded.postgres import Postgres
from gateway.embedded.valkey import Valkey

_POLL_SECONDS = 0.05
_SUPERVISION_SECONDS = 0.5
_log = structlog.get_logger()
_PORT_ATTEMPTS = 3
_GUEST_SECONDS = 10.0


class Stores:
    """Running stores and their URLs, for `async with await Stores.open(...)`.

    `open` and `close` may run in different event loops. Open the stores in the main thread: Linux stops the servers
    when the thread that started them ends.
    """

    def __init__(self, reached: Endpoints, role: _Owner | _Guest) -> None:
        self.database_url = reached.database_url
        self.redis_url = reached.redis_url
        self._role: _Owner | _Guest | None = role

    @classmethod
    async def open(
        cls,
        data_dir: Path,
        *,
        must_own: bool = False,
        durable: bool = True,
        patience_seconds: float = 15.0,
        valkey_cores: Sequence[int] = (),
    ) -> Self:
        """Joins the stores that run in `data_dir`, else starts them.

        With `must_own` it waits until their present owner has closed them, instead of joining. `durable` False turns
        off flushing to disk, for tests. Valkey keeps to `valkey_cores`, if there are any. Raises EmbeddedError, a
        single line, after `patience_seconds`, or when a server does not start.
        """
        folder = prepare_data_dir(data_dir)
        deadline = monotonic_seconds() + patience_seconds
        while (lock := FileLock.acquire(folder / "stores.lock")) is None:
            if not must_own and (guest := await _Guest.join(folder)) is not None:
                return cls(guest.reached, guest)
            if monotonic_seconds() > deadline:
                raise DataDirBusyError(
                    f"the stores in {folder} are held by process {lock_holder(folder / 'stores.lock')}"
                )
            await asyncio.sleep(_POLL_SECONDS)
        owner = _Owner(folder, lock, durable=durable, valkey_cores=valkey_cores)
        return cls(await owner.start(), owner)

    @property
    def is_owner(self) -> bool:
        return isinstance(self._role, _Owner)

    async def keep_running(self) -> None:
        """Restarts a store whose process dies, at the same address, and flushes to disk, until it is cancelled."""
        await asyncio.gather(self._repeat(_Owner.restart_dead), self._repeat(_Owner.flush))

    async def _repeat(self, action: Callable[[_Owner], Awaitable[None]]) -> NoReturn:
        while True:
            await asyncio.sleep(_SUPERVISION_SECONDS)
            if isinstance(self._role, _Owner):
                await action(self._role)

    async def close(self) -> None:
        """Leaves the stores. The owner stops them, and waits up to 10 s for its guests before."""
        role, self._role = self._role, None
        if role is not None:
            await role.leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Owner:
    """The one process that runs the servers of a data directory, by its lock."""

    def __init__(self, folder: Path, lock: FileLock, *, durable: bool, valkey_cores: Sequence[int]) -> None:
        self._saved = folder / "stores.json"
        self._guests = folder / "guests.lock"
        self._cluster = folder / "postgres"
        self._lock = lock
        self._postgres = Postgres(folder, durable=durable)
        self._valkey = Valkey(folder, durable=durable, cores=valkey_cores)

    async def start(self) -> Endpoints:
        try:
            await asyncio.gather(self._postgres.stop_leftover(), self._valkey.stop_leftover())
            return await self._start_on_free_ports()
        except BaseException as error:
            await self.leave()
            if isinstance(error, OSError):
                raise StoreFailedError(f"the stores cannot start: {error}") from error
            raise

    async def restart_dead(self) -> None:
        reached = endpoints.load(self._saved)
        for store, endpoint in self._stores_at(reached) if reached is not None else ():
            if store.has_died():
                await self._restart(store, endpoint)

    async def _restart(self, store: Postgres | Valkey, endpoint: Endpoint) -> None:
        try:
            await store.stop_leftover()
            await store.start(endpoint)
        except (EmbeddedError, OSError) as error:
            _log.error("store_restart_failed", reason=str(error))

    async def flush(self) -> None:
        try:
            await asyncio.to_thread(self._valkey.flush)
        except OSError as error:
            _log.error("valkey_flush_failed", reason=str(error))

    async def leave(self) -> None:
        # An exclusive lock keeps new guests from joining stores that are about to stop.
        guest_lock = await self._wait_for_guests()
        try:
            await asyncio.gather(self._postgres.stop(), self._valkey.stop())
        finally:
            if guest_lock is not None:
                guest_lock.release()
            self._lock.release()

    async def _wait_for_guests(self) -> FileLock | None:
        """The guests' lock, once all have left; None after 10 s, when the stores stop in spite of a guest."""
        deadline = monotonic_seconds() + _GUEST_SECONDS
        while monotonic_seconds() < deadline:
            if (lock := FileLock.acquire(self._guests)) is not None:
                return lock
            await asyncio.sleep(_POLL_SECONDS)
        return None

    async def _start_on_free_ports(self) -> Endpoints:
        """Starts both at once, and again on other ports if another process has taken one meanwhile."""
        for _ in range(_PORT_ATTEMPTS):
            chosen = endpoints.choose(self._load_saved())
            endpoints.save(self._saved, chosen)
            starts = [store.start(endpoint) for store, endpoint in self._stores_at(chosen)]
            results = await asyncio.gather(*starts, return_exceptions=True)
            failures = [result for result in results if isinstance(result, BaseException)]
            if not failures:
                return chosen
            await asyncio.gather(self._postgres.stop(), self._valkey.stop())
            if not endpoints.any_taken(chosen):
                break
        raise failures[0]

    def _load_saved(self) -> Endpoints | None:
        saved = endpoints.load(self._saved)
        if saved is None and self._cluster.exists():
            raise DataDirUnusableError(
                f"{self._saved} is missing, and with it the password of {self._cluster}; "
                "restore it or remove the data directory"
            )
        return saved

    def _stores_at(self, reached: Endpoints) -> tuple[tuple[Postgres | Valkey, Endpoint], ...]:
        return (self._postgres, reached.postgres), (self._valkey, reached.valkey)


class _Guest:
    """A process that uses the stores of another; the owner waits for its shared lock."""

    def __init__(self, reached: Endpoints, lock: FileLock) -> None:
        self.reached = reached
        self._lock = lock

    @classmethod
    async def join(cls, folder: Path) -> _Guest | None:
        """A guest of stores that both answer; None while they start or stop."""
        lock = FileLock.acquire_shared(folder / "guests.lock")
        if lock is None:
            return None
        try:
            reached = endpoints.load(folder / "stores.json")
            if (
                reached is not None
                and await postgres.is_ready(reached.postgres)
                and await valkey.is_ready(reached.valkey)
            ):
                return cls(reached, lock)
        except BaseException:
            lock.release()
            raise
        lock.release()
        return None

    async def leave(self) -> None:
        self._lock.release()
