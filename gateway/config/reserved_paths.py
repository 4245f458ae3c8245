"""What of the public listener the account API answers: all paths of some first segments, whatever routes there are."""

from __future__ import annotations

LOCAL_PATHS = ("/auth", "/me", "/plans", "/subscriptions", "/webhooks", "/openapi.json", "/docs", "/problems")
_SEGMENTS = frozenset(path.encode() for path in LOCAL_PATHS)


def is_local(raw_path: bytes) -> bool:
    """By the path as it was sent: one that spells a segment in another way is the proxy's, which refuses it."""
    end = raw_path.find(b"/", 1)
    return (raw_path if end < 0 else raw_path[:end]) in _SEGMENTS
