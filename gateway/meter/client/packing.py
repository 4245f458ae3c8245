"""Commands in RESP2, joined from packed pieces: what many calls share is packed once.

hiredis packs the 17 words of an admission in 5 µs; joining pieces takes 2 µs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast

import hiredis

Word = bytes | str | int
Command = Sequence[Word]
pack = cast(Callable[[tuple[Word, ...]], bytes], hiredis.pack_command)  # its stub knows one-tuples only


def words(*each: Word) -> bytes:
    """A piece of a command. Raises ValueError for a number with more digits than Python prints; hiredis would crash."""
    packed = pack(tuple([str(word) if isinstance(word, int) else word for word in each]))
    return packed[packed.index(b"\n") + 1 :]


WORD = b"$%d\r\n%b\r\n"  # what a piece of one word is made by, of its length and the word


def word(value: bytes) -> bytes:
    """A piece of one word."""
    return WORD % (len(value), value)


@lru_cache(maxsize=256)
def opening(count: int, first: bytes) -> bytes:
    """What commands of `count` words begin with whose first piece is the same."""
    return b"*%d\r\n%b" % (count, first)
