"""Bodies of JSON texts: one text, several in a row, an array whose elements come one by one, or one text a line."""

from __future__ import annotations

from gateway.proxy.metering.documents.reader import DocumentReader


class JsonBody:
    """Leaves the text open: only the end of the body ends it, and its reader can be asked before."""

    is_stream = False
    is_readable_open = True
    is_broken = False
    event_name = b""

    def __init__(self, documents: DocumentReader) -> None:
        self._documents = documents

    def feed(self, chunk: bytes) -> None:
        self._documents.write(chunk)


class JsonLines:
    """Ends a text at each line feed. A carriage return before it is white space to JSON."""

    is_stream = True
    is_readable_open = True
    is_broken = False
    event_name = b""

    def __init__(self, documents: DocumentReader) -> None:
        self._documents = documents

    def feed(self, chunk: bytes) -> None:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            if self._documents.size:
                self._documents.write(line)
                self._documents.close()
            elif line.strip():
                self._documents.read(line)
        if rest:
            self._documents.write(rest)
