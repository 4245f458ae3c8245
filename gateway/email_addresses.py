"""E-mail addresses that name exactly one mailbox, in the one spelling that is stored and mailed to.

Dot-atoms of ASCII (RFC 5321 section 4.1.2), without `?`, of which encoded words are made, and without `%`
and `!`, which route. A domain of other letters becomes that of the DNS (RFC 5891); a local part of other letters is
refused, since few servers take it (RFC 6531).
"""

from __future__ import annotations

import re

import idna

MAX_CHARACTERS = 254  # RFC 5321 section 4.5.3.1.3, without the angle brackets
_ATOM = r"[A-Za-z0-9#$&'*+/=^_{|}~-]+"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_LAST_LABEL = r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"  # no address of the form 192.0.2.1
PATTERN = rf"{_ATOM}(\.{_ATOM})*@({_LABEL}\.)*{_LAST_LABEL}"
_MAILBOX = re.compile(PATTERN)
# Of the addresses that erased accounts are left with: nobody else may have one. It never resolves (RFC 2606 section 2).
ERASED_DOMAIN = "deleted.invalid"


class InvalidEmail(ValueError):  # noqa: N818 - a refusal, not a fault
    """The text is not the address of one plain mailbox."""

    def __init__(self) -> None:
        super().__init__("must be an email address, as ada@example.com")


def normalised(text: str) -> str:
    """The address as it is stored, its domain in lower case. Raises InvalidEmail."""
    local, _, domain = text.strip().rpartition("@")
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True, std3_rules=True).decode()
        except (idna.IDNAError, UnicodeError):
            raise InvalidEmail from None
    address = f"{local}@{domain.lower()}"
    if len(address) > MAX_CHARACTERS or not _MAILBOX.fullmatch(address) or address.endswith(f"@{ERASED_DOMAIN}"):
        raise InvalidEmail
    return address


def is_plain(text: str) -> bool:
    """Whether mail to this address goes to one mailbox, as it is written."""
    return len(text) <= MAX_CHARACTERS and _MAILBOX.fullmatch(text) is not None


def looked_up(text: str) -> str:
    """The spelling to find an account by: accounts of earlier releases may have addresses that are refused today."""
    try:
        return normalised(text)
    except InvalidEmail:
        return text.strip()
