"""A link to Redis that is patient until its test lets time run out, so that a test that hurries hurries only there."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.meter.client.client import Link
from gateway.meter.client.server import Node

HURRIED_SECONDS = 0.25


@contextmanager
def hurried(link: Link, timeout_seconds: float = HURRIED_SECONDS) -> Iterator[None]:
    """Within the block Redis has so long to answer, what was asked before it too."""
    node = link._server
    assert isinstance(node, Node)
    patience_seconds = node._timeout_seconds
    _give(node, timeout_seconds)
    try:
        yield
    finally:
        _give(node, patience_seconds)


def _give(node: Node, timeout_seconds: float) -> None:
    node._timeout_seconds = timeout_seconds
    pipe = node._pipe
    if pipe is None:
        return
    pipe._timeout_seconds = timeout_seconds
    latest = pipe._loop.time() + timeout_seconds
    pipe._pending = deque((future, min(deadline, latest)) for future, deadline in pipe._pending)
    if pipe._timer is not None:  # it was set by the patience of before
        pipe._timer.cancel()
        pipe._check_oldest()
