"""The access log: one JSON line for each request, written by a thread, so that a slow reader delays no request.

Lines hold names from the configuration, ids, numbers and a masked key. They never hold a key, a body, a query or a path
that matches no route.
"""

from __future__ import annotations

import os
import sys
import threading
from time import time

FLUSH_SECONDS = 0.2
MAX_BUFFERED_LINES = 20_000  # above it lines are dropped and counted: the reader of the log is too slow
NO_KEY = '""'
_DROPPED_LOGFMT = "event=access_log_dropped lines={}\n"


class AccessLog:
    """Collects lines in the event loop; a thread writes them."""

    def __init__(self, descriptor: int | None = None, *, form: str = "json") -> None:
        self.form = form
        self._descriptor = sys.stderr.fileno() if descriptor is None else descriptor
        self._lines: list[str] = []
        self._dropped = 0
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._writer.start()

    def record(
        self,
        request_id: str,
        endpoint: str,
        *,
        method: str,
        status: int,
        seconds: float,
        upstream_seconds: float | None = None,
        code: str | None = None,
        credits: int | None = None,
        key: str = NO_KEY,
    ) -> None:
        """`endpoint` and `key`, a masked one, are JSON strings, made where they are loaded. The others need no escape:
        `request_id` is echoable, `method` one of the route, or `other`, `code` that of a refusal or an outcome.
        """
        if len(self._lines) >= MAX_BUFFERED_LINES:
            self._dropped += 1
            return
        upstream_ms = "null" if upstream_seconds is None else f"{upstream_seconds * 1000:.2f}"
        self._lines.append(
            f'{{"event":"request","at":{time():.3f},"request_id":"{request_id}","endpoint":{endpoint},'
            f'"method":"{method}","status":{status},"code":"{code or ""}","ms":{seconds * 1000:.2f},'
            f'"upstream_ms":{upstream_ms},"credits":{"null" if credits is None else credits},'
            f'"key":{key}}}\n'
        )

    def write(self, line: str) -> None:
        """Takes a line that is made already, in ASCII."""
        if len(self._lines) >= MAX_BUFFERED_LINES:
            self._dropped += 1
        else:
            self._lines.append(line)

    def close(self) -> None:
        """Writes the buffered lines, as far as the reader takes them within a second."""
        self._closing.set()
        self._writer.join(1.0)

    def _run(self) -> None:
        while not self._closing.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            pattern = '{{"event":"access_log_dropped","lines":{}}}\n' if self.form == "json" else _DROPPED_LOGFMT
            lines.append(pattern.format(dropped))
        unwritten = memoryview("".join(lines).encode())
        while unwritten:
            try:
                unwritten = unwritten[os.write(self._descriptor, unwritten) :]
            except OSError:
                return  # the reader is gone
