"""How often something may be tried: a few times at once, then at a steady pace (GCRA: a leaky bucket in one instant).

An instant is kept for each subject: when everything that was taken is given back. Nobody is locked out: the wait after
the last attempt is one step of the pace, however many attempts were refused meanwhile, because those take nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from ipaddress import IPv6Address, ip_address, ip_network


@dataclass(frozen=True, slots=True)
class Pace:
    """`burst` attempts at once; each is given back `seconds_each` after the one before."""

    burst: int
    seconds_each: float

    @property
    def each(self) -> timedelta:
        return timedelta(seconds=self.seconds_each)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is slowed down: `digest` names it without telling who it is."""

    digest: bytes
    pace: Pace


# Of logins only failures count. An account is guarded against many addresses, an address may guess at many accounts.
LOGIN_OF_ACCOUNT = Pace(burst=10, seconds_each=60)
LOGIN_FROM_ADDRESS = Pace(burst=60, seconds_each=5)
LOGIN_AT_ALL = Pace(burst=1000, seconds_each=0.05)
# A new account may come with free credits.
REGISTRATION_FROM_ADDRESS = Pace(burst=100, seconds_each=10)
REGISTRATION_AT_ALL = Pace(burst=1000, seconds_each=0.1)
# Each sends a mail to somebody who may not have asked for it.
MAIL_TO_ACCOUNT = Pace(burst=5, seconds_each=300)
MAIL_FROM_ADDRESS = Pace(burst=30, seconds_each=60)
MAIL_AT_ALL = Pace(burst=1000, seconds_each=0.5)
# Tokens out of mails are beyond guessing; this bounds the hashing that a reset costs.
TOKEN_FROM_ADDRESS = Pace(burst=60, seconds_each=5)


def take(free_at: datetime, now: datetime, pace: Pace) -> datetime | None:
    """The new instant after one more attempt; None where it has to wait."""
    taken = max(free_at, now) + pace.each
    return taken if taken - now <= pace.burst * pace.each else None


def wait_seconds(free_at: datetime, now: datetime, pace: Pace) -> int:
    """How long until an attempt is taken again, in whole seconds, at least 1."""
    due = free_at + pace.each - pace.burst * pace.each
    return max(1, math.ceil((due - now).total_seconds()))


def subject(action: str, named: str, pace: Pace) -> Subject:
    """`named` is an address, an account, or empty for everyone together."""
    return Subject(sha256(f"{action}|{named.casefold()}".encode("utf-8", "surrogatepass")).digest(), pace)


def neighbourhood(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one, of which a single customer has all (RFC 6177 section 2)."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else address
