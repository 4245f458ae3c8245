"""How often something may be tried: a few times at once, then at a steady pace (GCRA: a leaky bucket in one instant).

An instant is kept for each subject: when everything that was taken is given back, in PostgreSQL or in the process. What
is decided depends on how far ahead of now it is. Nobody is locked out: the wait after the last attempt is one step of
the pace, however many attempts were refused meanwhile, because those take nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


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
# Nothing is counted for everyone together: a few strangers would use that up for all.
LOGIN_OF_ACCOUNT = Pace(burst=10, seconds_each=60)
LOGIN_FROM_ADDRESS = Pace(burst=60, seconds_each=5)
LOGIN_FROM_NETWORK = Pace(burst=600, seconds_each=0.5)
# A new account may come with free credits.
REGISTRATION_FROM_ADDRESS = Pace(burst=100, seconds_each=10)
REGISTRATION_FROM_NETWORK = Pace(burst=500, seconds_each=1)
# Each sends a mail to somebody who may not have asked for it.
MAIL_TO_ACCOUNT = Pace(burst=5, seconds_each=300)
MAIL_FROM_ADDRESS = Pace(burst=30, seconds_each=60)
MAIL_FROM_NETWORK = Pace(burst=300, seconds_each=5)
# Tokens out of mails are beyond guessing; this bounds the hashing that a reset costs.
TOKEN_FROM_ADDRESS = Pace(burst=60, seconds_each=5)
# What costs a process more than a good call does. Requests to /auth that are refused, each some queries.
ATTEMPTS_FROM_ADDRESS = Pace(burst=100, seconds_each=0.1)
ATTEMPTS_FROM_NETWORK = Pace(burst=1000, seconds_each=0.02)
# Tokens that nobody issued, of all addresses: how many of them are logged. A metric counts all.
LOGGED_TOKENS = Pace(burst=100, seconds_each=0.1)
# Keys that look right and nobody has, each a query; so do sessions and admin tokens.
UNKNOWN_KEYS_FROM_ADDRESS = Pace(burst=200, seconds_each=0.1)
# Codes of coupons that nobody made: who guesses finds none for a long time, and who mistypes does not wait.
UNKNOWN_COUPONS_OF_ACCOUNT = Pace(burst=60, seconds_each=10)
# What a customer has a payment provider asked: it answers so many questions a second for all customers together.
PROVIDER_CALLS_OF_ACCOUNT = Pace(burst=120, seconds_each=5)
# Keys that a customer makes, whose rows stay: a fleet gets its own at once, and a script that runs wild is slowed down.
KEYS_OF_ACCOUNT = Pace(burst=600, seconds_each=6)
# Pages of the portal with what belongs to them, rendered by the process of the workers.
PAGES_FROM_ADDRESS = Pace(burst=300, seconds_each=0.05)
# Stored responses, which no window of a plan counts.
REPLAYS_OF_ACCOUNT = Pace(burst=60, seconds_each=0.5)
REPLAYS_IN_ALL = Pace(burst=600, seconds_each=0.01)

_ROUNDING_SECONDS = 1e-6


def take(ahead_seconds: float, pace: Pace) -> float | None:
    """How far ahead of now the instant of a subject is after one more attempt; None where that has to wait.

    `ahead_seconds` is how far it is ahead before, negative where it has passed.
    """
    taken = max(0.0, ahead_seconds) + pace.seconds_each
    return taken if taken <= pace.burst * pace.seconds_each + _ROUNDING_SECONDS else None


def wait_seconds(ahead_seconds: float, pace: Pace) -> int:
    """How long until an attempt is taken again, in whole seconds, at least 1."""
    due_in = ahead_seconds + pace.seconds_each - pace.burst * pace.seconds_each
    return max(1, math.ceil(due_in - _ROUNDING_SECONDS))


def subject(action: str, named: str, pace: Pace) -> Subject:
    """`named` is an account, an address or a network."""
    return Subject(sha256(f"{action}|{named.casefold()}".encode("utf-8", "surrogatepass")).digest(), pace)


def neighbourhood(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one, of which a single customer has all (RFC 6177 section 2)."""
    return _places(address)[0]


def network(address: str) -> str:
    """The /24 of an IPv4 address, or the /48 of an IPv6 one, which a single site may have (RFC 6177 section 3)."""
    return _places(address)[1]


@lru_cache(maxsize=1024)
def _places(address: str) -> tuple[str, str]:
    """Both, since each request asks for them several times, and parsing an address takes microseconds."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, 64), strict=False)), str(ip_network((parsed, 48), strict=False))
    written = str(parsed)
    return written, f"{written.rpartition('.')[0]}.0/24" if isinstance(parsed, IPv4Address) else written


def _parsed(address: str) -> IPv4Address | IPv6Address | str:
    """The text itself where it is no address; an IPv4 address as such where it is mapped (RFC 4291 section 2.5.5.2)."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed
