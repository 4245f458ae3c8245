"""Why the embedded stores do not run; each message is one line that a user can act on."""

from __future__ import annotations


class EmbeddedError(Exception):
    """Any reason why the embedded stores cannot be used; the command line prints it as it is."""


class EmbeddedUnavailableError(EmbeddedError):
    """There is no usable server binary for a store."""


class DataDirUnusableError(EmbeddedError):
    """The data directory cannot hold the stores: not a directory, not writable, or someone else's."""


class DataDirBusyError(EmbeddedError):
    """Another process holds the data directory."""


class StoreFailedError(EmbeddedError):
    """A server did not start, did not become ready, or did not stop."""
