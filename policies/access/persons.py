"""Who is the same person, as far as an e-mail address tells: one trial and one allowance of free credits for each.

Two spellings of a mailbox are one person: case, `+tags`, and the dots of Gmail make no other one. What is kept of an
address is a keyed digest, which tells nothing without the secret and outlives the account that is erased.
"""

from __future__ import annotations

import hmac

from policies.access.tokens import Purpose, derive

# Both are one service, which ignores dots.
_GMAIL = frozenset({"gmail.com", "googlemail.com"})


def mailbox(email: str) -> str:
    """One spelling of the addresses that reach the same mailbox."""
    local, _, domain = email.strip().casefold().rpartition("@")
    local = local.partition("+")[0] or local
    if domain in _GMAIL:
        return f"{local.replace('.', '')}@gmail.com"
    return f"{local}@{domain}"


def digest(secret: str, email: str) -> bytes:
    """The person of an address: 256 bits under a key of their own."""
    return hmac.digest(derive(secret, Purpose.PERSON), mailbox(email).encode("utf-8", "surrogatepass"), "sha256")
