"""One connection of an attacker: a socket that never waits, the bytes that it sends, the heads that it gets."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from contextlib import suppress

from tests.guarantees.attacks.kinds import Aim, Attack

ADDRESS = "127.0.0.2"  # any of 127/8 is this machine's
NARROW_BYTES = 4096  # what a slow reader lets the kernel keep for it
READ_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


class AttackingConnection:
    """`statuses` counts the heads that came. `is_sent`: the attack has no more to send."""

    def __init__(self, place: tuple[str, int], attack: Attack, aim: Aim) -> None:
        """Begins to connect; raises OSError."""
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.bind((ADDRESS, 0))
        if not attack.reads:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_BYTES)
        with suppress(BlockingIOError):
            self.socket.connect(place)
        self.is_open = True
        self.is_sent = False
        self.statuses = 0
        self._reads = attack.reads
        self._pieces = iter(attack.pieces(aim))
        self._piece = memoryview(b"")
        self._head = b""
        self._body_left: float = 0

    @property
    def is_full(self) -> bool:
        """Whether it takes no more of what comes."""
        return bool(self._body_left) and not self._reads

    def send(self) -> int:
        """Sends a piece, or what the kernel takes of it; gives the bytes. Raises BlockingIOError and OSError."""
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        if not self._piece:
            self.is_sent = True
            return 0
        sent = self.socket.send(self._piece)
        self._piece = self._piece[sent:]
        return sent

    def read(self, counted: Counter[str]) -> bool:
        """Counts the heads of what came by status; True at the end of the connection."""
        try:
            data = self.socket.recv(READ_BYTES if self._reads else NARROW_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True
        if not data:
            return True
        self._count(data, counted)
        return False

    def close(self) -> None:
        """Resets the connection."""
        self.is_open = False
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.socket.close()

    def _count(self, data: bytes, counted: Counter[str]) -> None:
        while data:
            if self._body_left:
                skipped = min(len(data), self._body_left)
                self._body_left -= skipped
                data = data[int(skipped) :]
                continue
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return
            self._head = b""
            self.statuses += 1
            counted[head[9:12].decode()] += 1
            length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            self._body_left = int(length) if length else float("inf")
