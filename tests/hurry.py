"""A link to Redis that is patient until its test lets time run out, so that a test that hurries hurries only there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.meter.link import Link
from gateway.meter.node import Node

HURRIED_SECONDS = 0.25


@contextmanager
def hurried(link: Link, timeout_seconds: float = HURRIED_SECONDS) -> Iterator[None]:
    """Within the block Redis has so long to answer."""
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
    if pipe is not None:
        pipe._timeout_seconds = timeout_seconds
        if pipe._timer is not None:  # of a call before, and late by its patience
            pipe._timer.cancel()
            pipe._check_oldest()
