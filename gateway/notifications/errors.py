"""What keeps a notice from being delivered."""

from __future__ import annotations


class Undelivered(Exception):  # noqa: N818 - the world's doing, told to the worker
    """The receiver did not take it. `is_final`: nor will it, however often it is asked."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final
