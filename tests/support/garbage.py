"""What the program leaves to the garbage collector, and what it keeps: for tests of memory that no allocator blurs."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_off() -> Iterator[None]:
    """Within the block nothing is collected but by `collected`, and what is older is not looked at."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def collected(package: str) -> Counter[str]:
    """Collects, and gives how many objects of this package's classes only the collector could free, by class."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        names = [f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.collect()
    return Counter(name for name in names if name.startswith(f"{package}."))


def kept_pieces(content: bytes) -> list[bytes]:
    """The parts of a content that are in memory besides it: `bytes` objects of 1 KiB and more, with an owner."""
    found = {
        id(each): each
        for owner in gc.get_objects()
        for each in gc.get_referents(owner)
        if type(each) is bytes and len(each) >= 1024 and each in content and each is not content
    }
    return list(found.values())
