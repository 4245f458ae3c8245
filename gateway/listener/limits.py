"""What one client may cost, as far as it is configured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may cost. `max_header_bytes` counts the request line and all fields."""

    max_header_bytes: int = 32 * 1024
    header_timeout_seconds: float = 10.0
    body_idle_timeout_seconds: float = 30.0
    keep_alive_seconds: float = 75.0  # nginx's keepalive_timeout
    max_connections: int = 10_000


DEFAULT_LIMITS = Limits()
