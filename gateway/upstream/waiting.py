"""The requests that wait for a connection. Who has few goes first, so nobody waits behind all that others have sent."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from gateway.upstream.connection import Connection
from gateway.upstream.shares import Shares

# Above it a request is refused at once. As deep as the usual accept backlog of the kernel.
MAX_QUEUED = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Waiter:
    """Who waits: `slot` gets the connection that comes with a slot, None if one must be opened."""

    slot: asyncio.Future[Connection | None]
    account: Hashable
    is_client_paced: bool


class Waiting:
    """The waiters of a pool, each in one of `places`, of which an account has half at most."""

    __slots__ = ("_by_account", "places")

    def __init__(self) -> None:
        self._by_account: OrderedDict[Hashable, dict[Waiter, None]] = OrderedDict()
        self.places = Shares(MAX_QUEUED, MAX_QUEUED // 2)

    def __len__(self) -> int:
        return self.places.count

    def has_room(self, account: Hashable) -> bool:
        return self.places.allows(account)

    def add(self, waiter: Waiter) -> None:
        self.places.lease(waiter.account)
        self._by_account.setdefault(waiter.account, {})[waiter] = None

    def discard(self, waiter: Waiter) -> None:
        """Forgets one that waits no longer; no matter whether it has been given."""
        waiters = self._by_account.get(waiter.account, {})
        if waiter in waiters:
            del waiters[waiter]
            if not waiters:
                del self._by_account[waiter.account]
            self.places.release(waiter.account)

    def next(self, may_lease: Callable[[Waiter], bool], *, leases: Shares) -> Waiter | None:
        """The first one that may lease, of the account that has the fewest leases; it waits no longer."""
        found, fewest = None, leases.maximum
        for account, waiters in self._by_account.items():
            if (leased := leases.of(account)) < fewest:
                waiter = next((each for each in waiters if not each.slot.done() and may_lease(each)), None)
                if waiter is not None:
                    found, fewest = waiter, leased
                    if not leased:
                        break
        if found is not None:
            self._by_account.move_to_end(found.account)
            self.discard(found)
        return found

    def fail(self, make_error: Callable[[], Exception]) -> None:
        for waiters in self._by_account.values():
            for waiter in waiters:
                if not waiter.slot.done():
                    waiter.slot.set_exception(make_error())
