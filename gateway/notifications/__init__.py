"""Delivers notifications to users by e-mail and to the operator's system by signed webhook."""

import re

MAX_REASON_CHARACTERS = 500
# Surrogates that stand for no byte which could not be decoded (PEP 383).
_NO_OCTET = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class DeliveryFailed(Exception):  # noqa: N818 - an outcome that the worker handles
    """The receiver did not accept it. `is_final`: no further attempt will succeed. `is_unforeseen`: by a fault here.

    The reason is text that the database takes: receivers answer in any encoding, and at any length.
    """

    def __init__(self, reason: str, *, is_final: bool = False, is_unforeseen: bool = False) -> None:
        octets = _NO_OCTET.sub("?", reason).encode(errors="surrogateescape")
        text = octets.decode(errors="replace").replace("\0", "?")
        super().__init__(text[:MAX_REASON_CHARACTERS])
        self.is_final = is_final
        self.is_unforeseen = is_unforeseen
