"""The command line: each command a few lines over the code that does the work."""

from __future__ import annotations

import gc


def main() -> None:
    """Runs `gateway`. Exit codes: 0 done, 1 could not be done, 2 wrong usage or configuration.

    No garbage is collected until the command is imported: there is none, and looking for it takes a sixth of a start.
    """
    gc.disable()
    try:
        from gateway.cli.main import run

        run()
    finally:
        gc.enable()


__all__ = ["main"]
