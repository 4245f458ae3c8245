"""Counts what is leased, in all and for each account, against a bound for both."""

from __future__ import annotations

from collections.abc import Hashable
from math import ceil


class Shares:
    """`count` is how much is leased; None as an account has no share of its own."""

    __slots__ = ("_leased_by", "count", "maximum", "of_account")

    def __init__(self, maximum: int, of_account: int) -> None:
        self.count = 0
        self.maximum = maximum
        self.of_account = of_account
        self._leased_by: dict[Hashable, int] = {}

    def part(self, share: float) -> Shares:
        """So large a share of both bounds, and one at least."""
        return Shares(max(1, ceil(self.maximum * share)), max(1, ceil(self.of_account * share)))

    def of(self, account: Hashable) -> int:
        """How much the account has; 0 for None."""
        return self._leased_by.get(account, 0)

    def allows(self, account: Hashable) -> bool:
        """Whether there is one more, in all and for this account."""
        return self.count < self.maximum and (account is None or self._leased_by.get(account, 0) < self.of_account)

    def lease(self, account: Hashable) -> None:
        self.count += 1
        if account is not None:
            self._leased_by[account] = self._leased_by.get(account, 0) + 1

    def release(self, account: Hashable) -> None:
        self.count -= 1
        if account is not None:
            left = self._leased_by[account] - 1
            if left:
                self._leased_by[account] = left
            else:
                del self._leased_by[account]
