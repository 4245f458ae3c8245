"""How a command fails: Redis is unavailable, the command was not sent, or Redis rejects it."""

from __future__ import annotations

import re

# Errors by which a server says that it cannot serve now (Redis `src/server.c`, shared objects). A script's own
# commands fail with the same codes; servers before 7.0 wrap those in `ERR Error running script .. -OOM ..`.
_OUTAGE = re.compile(
    r"(?:\w+ .* -)?(BUSY|LOADING|READONLY|OOM|MISCONF|MASTERDOWN|CLUSTERDOWN|NOREPLICAS|TRYAGAIN|NOAUTH)\b", re.DOTALL
)

# Those that a new connection may resolve: the name may lead to a new primary, the password may be right again.
_MISDIRECTED = re.compile(r"(?:\w+ .* -)?(READONLY|MASTERDOWN|NOAUTH)\b", re.DOTALL)


class MeterUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """Redis did not answer in time, cannot serve, or there is no connection. The command may or may not have run."""


class NotSent(MeterUnavailable):
    """The command was not sent: no server is connected, or too many commands are pending. It has not run."""


class Declined(NotSent):
    """The server declined the command: it has not run. A script that may not write has written nothing."""


class MeterError(Exception):
    """Redis replied with an error that waiting does not resolve: a bug, or a missing permission."""


class UnsupportedServer(Exception):  # noqa: N818 - it names what was found
    """The server is too old for the scripts, or in a cluster although the URL names one server, or the reverse."""


def failure(message: str) -> MeterUnavailable | MeterError:
    """The exception for an error reply."""
    return Declined(f"Redis cannot serve: {message}") if _OUTAGE.match(message) else MeterError(message)


def is_misdirected(message: str) -> bool:
    return _MISDIRECTED.match(message) is not None
