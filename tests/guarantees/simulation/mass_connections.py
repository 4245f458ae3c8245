"""Many or large clients and upstreams by plain sockets and threads, cheap for the process that runs them."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

PIECE = bytes(1 << 20)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + bytes(0x10000) + b"\r\n"
PATIENCE_SECONDS = 1800.0  # only a failure waits so long
NARROW_BYTES = 4096
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


@contextmanager
def crowd(url: str, count: int, first: bytes, *, is_narrow: bool) -> Iterator[list[socket.socket]]:
    """So many connections, each with these bytes sent; `is_narrow` ones take few bytes before they are read."""
    address = urlsplit(url)
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.settimeout(PATIENCE_SECONDS)
            if is_narrow:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_BYTES)
            client.connect((address.hostname, address.port))
            client.sendall(first)
            clients.append(client)
        yield clients


def upload(url: str, head: bytes, size_bytes: int) -> bytes:
    """Sends zeros and returns the response head."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port or 80), PATIENCE_SECONDS) as client:
        client.sendall(head)
        for _ in range(size_bytes // len(PIECE)):
            client.sendall(PIECE)
        return client.recv(4096)


class Sink:
    """An upstream that reads bodies to their end and keeps only their sizes, or answers without an end."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.begun = 0
        self.uploading: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Ends every connection, and with it the thread that serves it."""
        for each in (self._listening, *self._connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        buffer = bytearray(1 << 20)
        with suppress(OSError):
            while True:
                data = b""
                while b"\r\n\r\n" not in data:
                    part = connection.recv(65536)
                    if not part:
                        return
                    data += part
                self._answer(connection, data, buffer)

    def _answer(self, connection: socket.socket, data: bytes, buffer: bytearray) -> None:
        head, _, rest = data.partition(b"\r\n\r\n")
        if head.startswith(b"GET /v1/endless"):
            self.begun += 1
            connection.sendall(STREAM)
            while True:
                connection.sendall(CHUNK)
        length = _LENGTH.search(head + b"\r\n")
        size = int(length[1]) if length else 0
        left = size - len(rest)
        self.uploading.add(connection)
        while left and (read := connection.recv_into(buffer)):
            left -= read
        self.uploading.discard(connection)
        self.sizes.append(size - left)
        connection.sendall(ANSWER)
