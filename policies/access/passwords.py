"""Which passwords are taken: long enough, and not the address they stand beside (NIST SP 800-63B section 3.1.1.2)."""

from __future__ import annotations

import unicodedata

MIN_LENGTH = 8
MAX_LENGTH = 128  # hashing costs the same for all; only the transport has to be bounded


def normalised(password: str) -> str:
    """One spelling of what looks the same, whatever keyboard it was typed on."""
    return unicodedata.normalize("NFKC", password)


def objection(password: str, *, email: str = "") -> str | None:
    """What is wrong with a new password, in words for its owner; None where nothing is."""
    if len(password) < MIN_LENGTH:
        return f"must have {MIN_LENGTH} characters at least"
    if len(password) > MAX_LENGTH:
        return f"may have {MAX_LENGTH} characters at most"
    if email and password.casefold() in (email.casefold(), email.casefold().partition("@")[0]):
        return "must not be the e-mail address"
    return None
