"""A short timeout of Redis for one block of a test; outside of it the test's client is patient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.meter.client.client import RedisClient
from gateway.meter.client.server import ServerConnection

SHORT_SECONDS = 0.25


@contextmanager
def short_redis_timeout(redis_client: RedisClient, timeout_seconds: float = SHORT_SECONDS) -> Iterator[None]:
    """Shortens the timeout of all commands within the block, those that are already under way included."""
    node = redis_client._server
    assert isinstance(node, ServerConnection)
    usual_seconds = node._timeout_seconds
    _set_timeout(node, timeout_seconds)
    try:
        yield
    finally:
        _set_timeout(node, usual_seconds)


def _set_timeout(node: ServerConnection, timeout_seconds: float) -> None:
    node._timeout_seconds = timeout_seconds
    pipe = node._pipe
    if pipe is None:
        return
    pipe._timeout_seconds = timeout_seconds
    if pipe._timer is not None:  # it was set for the timeout of before
        pipe._timer.cancel()
        pipe._tick()
