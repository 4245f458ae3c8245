"""How asking Redis fails: it is away, or it certainly never had the question, or it found the question wrong."""

from __future__ import annotations

import re

# Errors by which a server says that it cannot serve just now (Redis `src/server.c`, shared objects). A script's own
# commands fail with the same codes; servers before 7.0 wrap those in `ERR Error running script .. -OOM ..`.
_OUTAGE = re.compile(
    r"(?:\w+ .* -)?(BUSY|LOADING|READONLY|OOM|MISCONF|MASTERDOWN|CLUSTERDOWN|NOREPLICAS|TRYAGAIN|NOAUTH)\b", re.DOTALL
)

# Of these, what a new connection may mend: the name may lead to the new primary, the password may be right again.
_MISDIRECTED = re.compile(r"(?:\w+ .* -)?(READONLY|MASTERDOWN|NOAUTH)\b", re.DOTALL)


class MeterUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """Redis did not answer in time, cannot serve, or there is no connection. The command may or may not have run."""


class NotSent(MeterUnavailable):
    """No server took the command: none is connected, or too much waits on it. It has certainly not run."""


class MeterError(Exception):
    """Redis answered with an error that waiting does not mend: a bug, or a missing permission."""


class UnsupportedServer(Exception):  # noqa: N818 - it names what was found
    """The server is older than the scripts need, or a cluster where none was named, or the reverse."""


def failure(message: str) -> MeterUnavailable | MeterError:
    """What an error that Redis replied with means."""
    return MeterUnavailable(f"Redis cannot serve: {message}") if _OUTAGE.match(message) else MeterError(message)


def is_misdirected(message: str) -> bool:
    return _MISDIRECTED.match(message) is not None
