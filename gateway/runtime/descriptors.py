"""Raises the soft limit of open files, which service managers set to 1024 for programs that use select(2)."""

from __future__ import annotations

import resource

# As systemd's hard limit by default. More would only make what walks all descriptors slow.
MOST_DESCRIPTORS = 524_288


def raise_descriptor_limit() -> int:
    """Raises it to the hard limit, within reason; child processes inherit it. Gives the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # a sandbox may forbid it
        return soft
    return wanted
