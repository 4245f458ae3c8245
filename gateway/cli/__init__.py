"""The command line: each command a few lines over the code that does the work."""

from __future__ import annotations

import gc
import signal
import sys

INTERRUPTED = 130  # as shells have it: 128 and the number of SIGINT
_RELOADING = ("serve", "proxy", "admin", "worker", "demo")


def main() -> None:
    """Runs `gateway`. Exit codes: 0 done, 1 could not be done, 2 wrong usage or configuration, 130 interrupted.

    No garbage is collected until the command is imported: there is none, and looking for it takes a sixth of a start.
    """
    gc.disable()
    if sys.argv[1:2] and sys.argv[1] in _RELOADING:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # else it would end a gateway that is starting
    try:
        from gateway.cli.main import run

        run()
    except KeyboardInterrupt:  # while a command is imported
        sys.exit(INTERRUPTED)
    finally:
        gc.enable()


__all__ = ["main"]
