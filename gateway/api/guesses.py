"""Looks up secrets that anybody can write, which cost a query each and have the right form: keys, sessions, tokens.

Those that were found lately are looked up whenever they come. Others are looked up at the pace of their address, and
one that is unknown is not looked up again for a while.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from gateway.api.errors import Throttled
from gateway.clock import monotonic_seconds
from gateway.paced_subjects import PacedSubjects
from policies.access.throttling import UNKNOWN_KEYS_FROM_ADDRESS, neighbourhood

MAX_SECRETS = 10_000
UNKNOWN_SECONDS = 2.0  # new secrets are random, so none is delayed

T = TypeVar("T")


class Guesses:
    """What is known of secrets in this process, by a digest of each."""

    def __init__(self) -> None:
        self._pace = PacedSubjects(UNKNOWN_KEYS_FROM_ADDRESS)
        self._found: OrderedDict[Hashable, None] = OrderedDict()
        self._unknown_until: OrderedDict[Hashable, float] = OrderedDict()

    async def look_up(self, digest: Hashable, address: str, find: Callable[[], Awaitable[T | None]]) -> T | None:
        """What `find` gives, None for an unknown secret. Raises Throttled, and what `find` raises."""
        if digest in self._found:
            found = await find()
        elif monotonic_seconds() < self._unknown_until.get(digest, 0.0):
            return None
        else:
            found = await self._guess(neighbourhood(address), find)
        if found is None:
            self._found.pop(digest, None)
            _remember(self._unknown_until, digest, monotonic_seconds() + UNKNOWN_SECONDS)
        else:
            _remember(self._found, digest, None)
        return found

    async def _guess(self, subject: str, find: Callable[[], Awaitable[T | None]]) -> T | None:
        """Only an unknown secret costs its address something."""
        if not self._pace.take(subject):
            raise Throttled(1)
        is_unknown = False
        try:
            found = await find()
            is_unknown = found is None
        finally:
            if not is_unknown:
                self._pace.give_back(subject)
        return found


def _remember(secrets: OrderedDict[Hashable, T], digest: Hashable, value: T) -> None:
    secrets[digest] = value
    secrets.move_to_end(digest)
    if len(secrets) > MAX_SECRETS:
        secrets.popitem(last=False)
