"""A budget of bytes for request bodies that are held whole, in all and for each account.

It is taken as a body arrives, so nothing is set aside for what a Content-Length merely says.
"""

from __future__ import annotations

from collections.abc import Hashable

from policies.model import Refusal, Refused

ACCOUNT_SHARE = 4  # an account may have one part in so many of the budget


class HeldBodies:
    """The bodies that this process holds."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_bytes_per_account = max_bytes // ACCOUNT_SHARE
        self._by_account: dict[Hashable, int] = {}
        self.held_bytes = 0

    def open(self, account: Hashable) -> HeldBody:
        """A body of an account, to be released when it is no longer needed."""
        return HeldBody(self, account)

    def take(self, account: Hashable, size_bytes: int) -> None:
        """Raises Refused, and takes nothing, where the budget does not allow for so many bytes."""
        of_account = self._by_account.get(account, 0) + size_bytes
        if of_account > self._max_bytes_per_account:
            raise Refused(
                Refusal.TOO_MANY_IN_FLIGHT,
                "The request bodies that you have under way are too large together; wait for some to end.",
                max_bytes=self._max_bytes_per_account,
                retry_after=1,
            )
        if self.held_bytes + size_bytes > self._max_bytes:
            raise Refused(
                Refusal.UPSTREAM_OVERLOADED,
                "The gateway holds as many request bodies as it can; try again shortly.",
                retry_after=1,
            )
        self._by_account[account] = of_account
        self.held_bytes += size_bytes

    def give_back(self, account: Hashable, size_bytes: int) -> None:
        left = self._by_account.get(account, 0) - size_bytes
        self.held_bytes -= size_bytes
        if left > 0:
            self._by_account[account] = left
        else:
            self._by_account.pop(account, None)


class HeldBody:
    """What one body has of the budget."""

    __slots__ = ("_account", "_budget", "size_bytes")

    def __init__(self, budget: HeldBodies, account: Hashable) -> None:
        self._budget = budget
        self._account = account
        self.size_bytes = 0

    def grow(self, size_bytes: int) -> None:
        """Raises Refused where the budget is spent."""
        self._budget.take(self._account, size_bytes)
        self.size_bytes += size_bytes

    def release(self) -> None:
        size_bytes, self.size_bytes = self.size_bytes, 0
        if size_bytes:
            self._budget.give_back(self._account, size_bytes)
