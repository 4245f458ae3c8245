"""Which passwords are taken: long enough, not the address beside them, none of those guessed first.

NIST SP 800-63B section 3.1.1.2. The rules here find variants of what is guessed; a list, which is not code, is looked
up beside them. What guessers try next is the business of the throttle.
"""

from __future__ import annotations

import re
import unicodedata

MIN_LENGTH = 8
MAX_LENGTH = 128  # hashing costs the same for all; only the transport has to be bounded

COMMON = "is among the first that are guessed; choose another"

# Guessed from any place on, and backwards.
_SEQUENCES = (
    *("01234567890", "abcdefghijklmnopqrstuvwxyz", "qwertyuiop", "qwertzuiop", "azertyuiop", "asdfghjkl", "zxcvbnm"),
    *("1qaz2wsx3edc4rfv", "1q2w3e4r5t6y7u8i9o0p", "qazwsxedcrfv", "147258369"),
)
_LEAST_DISTINCT = 4
# Words that a digit or a sign makes no better: `Password1!`, `p4ssw0rd`.
_WORDS = frozenset(
    (
        *("admin", "administrator", "autumn", "azerty", "baseball", "basketball", "changeme", "charlie", "chelsea"),
        *("computer", "default", "demo", "dragon", "flower", "football", "freedom", "guest", "hello"),
        *("hunter", "iloveyou", "jordan", "letmein", "liverpool", "login", "master", "michael", "monkey"),
        *("mustang", "ninja", "nothing", "pass", "passphrase", "passwd", "password", "passwort", "pokemon"),
        *("princess", "qwerty", "root", "samsung", "secret", "shadow", "spring", "starwars", "summer"),
        *("sunshine", "superman", "test", "testtest", "trustno", "user", "welcome", "whatever", "winter"),
    )
)
_LEET = str.maketrans("013457@$!", "oieastasi")
_DECORATION = "0123456789!?.,-_#*+@$ "
# A hash of another system that asks for more would occupy the thread that verifies for everybody.
_ARGON2ID = re.compile(
    r"\$argon2id\$v=19\$m=(\d{1,6}),t=(\d{1,2}),p=(\d{1,2})\$[A-Za-z0-9+/]{11,64}\$[A-Za-z0-9+/]{16,128}"
)
_MOST_KIBIBYTES, _MOST_PASSES, _MOST_LANES = 256 * 1024, 10, 16


def normalised(password: str) -> str:
    """One spelling of what looks the same, whatever keyboard it was typed on."""
    return unicodedata.normalize("NFKC", password)


def is_verifiable(password_hash: str) -> bool:
    """Whether a login here can verify the hash of another system: Argon2id, as a PHC string, at a bounded cost."""
    found = _ARGON2ID.fullmatch(password_hash)
    bounds = (_MOST_KIBIBYTES, _MOST_PASSES, _MOST_LANES)
    return found is not None and all(1 <= int(cost) <= most for cost, most in zip(found.groups(), bounds, strict=True))


def objection(password: str, *, email: str = "") -> str | None:
    """What is wrong with a new password, in words for its owner; None where nothing is."""
    if len(password) < MIN_LENGTH:
        return f"must have {MIN_LENGTH} characters at least"
    if len(password) > MAX_LENGTH:
        return f"may have {MAX_LENGTH} characters at most"
    if email and password.casefold() in (email.casefold(), email.casefold().partition("@")[0]):
        return "must not be the e-mail address"
    if _is_common(normalised(password).casefold()):
        return COMMON
    return None


def _is_common(password: str) -> bool:
    if len(set(password)) < _LEAST_DISTINCT or any(password in run or password in run[::-1] for run in _SEQUENCES):
        return True
    stem = password.strip(_DECORATION)
    if len(stem) >= _LEAST_DISTINCT and any(stem in run or stem in run[::-1] for run in _SEQUENCES):
        return True
    return not {stem, stem.translate(_LEET), password.translate(_LEET).strip(_DECORATION)}.isdisjoint(_WORDS)
