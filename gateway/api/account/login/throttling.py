"""Throttling of attempts before a password is checked: per account, per address and per network."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

import structlog

from gateway import metrics
from gateway.api.errors import Busy, Throttled
from gateway.clock import monotonic_seconds, now
from gateway.ledger.accounts import throttles
from gateway.ledger.accounts.login_sessions import MOST_KNOWN_ADDRESSES, FoundAccount
from gateway.ledger.db.session import Database
from gateway.paced_subjects import PacedSubjects
from policies.access import throttling
from policies.access.throttling import Pace, Subject, neighbourhood, network, subject

Kind = Literal["password", "refresh_token", "one_time_token"]
HELD_BACK_SECONDS = 2.0
MAX_HELD_BACK = 10_000
# Actions of accounts, whose subjects PostgreSQL makes too (`login_sessions.find_account`).
LOGIN, MAIL = "login", "mail"
_log = structlog.get_logger()
_logged_tokens = PacedSubjects(throttling.LOGGED_TOKENS)


class HeldBack(NamedTuple):
    """An account that lets attempts through from `known_addresses` alone until `free_at`, as was found lately."""

    free_at: datetime
    found_at: float
    known_addresses: tuple[str, ...]


class Throttle:
    """Counts attempts in PostgreSQL, shared by all processes.

    Of accounts whose throttle was found exhausted it knows so for HELD_BACK_SECONDS: it may refuse wrongly for as long.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held_back: OrderedDict[tuple[str, str], HeldBack] = OrderedDict()

    def check_held_back(self, action: str, email: str, *, address: str) -> None:
        """Raises Throttled where `check` did a moment ago."""
        held_back = self._held_back.get((action, email))
        if held_back is None or address in held_back.known_addresses:
            return
        wait_seconds = (held_back.free_at - now()).total_seconds()
        if wait_seconds > 0 and monotonic_seconds() - held_back.found_at < HELD_BACK_SECONDS:
            raise Throttled(math.ceil(wait_seconds))

    def check(self, action: str, email: str, *, attempt: Sequence[Subject], found: FoundAccount) -> None:
        """Raises Throttled where `take` would."""
        at = now()
        wait_seconds = throttles.longest_wait(found.free_at, attempt, at)
        if not wait_seconds:
            return
        account = found.account
        is_from_anywhere = account is None or not account.is_known_address
        addresses = () if account is None else account.known_addresses
        wait_of_account = throttles.longest_wait(found.free_at, attempt[:1], at)
        if wait_of_account and is_from_anywhere and len(addresses) <= MOST_KNOWN_ADDRESSES:
            free_at = at + timedelta(seconds=wait_of_account)
            self._held_back[action, email] = HeldBack(free_at, monotonic_seconds(), addresses)
            if len(self._held_back) > MAX_HELD_BACK:
                self._held_back.popitem(last=False)
        raise Throttled(wait_seconds)

    async def take(self, subjects: Sequence[Subject]) -> None:
        """Counts an attempt. Raises Throttled, without counting."""
        async with self._database.transaction() as connection:
            wait_seconds = await throttles.record_attempts(connection, subjects, now())
        if wait_seconds:
            raise Throttled(wait_seconds)

    @asynccontextmanager
    async def taken(self, subjects: Sequence[Subject]) -> AsyncIterator[None]:
        """Counts an attempt, and takes it back where the gateway is too busy to make it. Raises Throttled."""
        await self.take(subjects)
        try:
            yield
        except Busy:
            await self.give_back(subjects)
            raise

    async def give_back(self, subjects: Sequence[Subject]) -> None:
        async with self._database.transaction() as connection:
            await throttles.refund_attempts(connection, subjects)


def check(subjects: Sequence[Subject], free_at: Mapping[bytes, datetime]) -> None:
    """Raises Throttled where `Throttle.take` would; `free_at` is what is stored of the subjects, by digest."""
    wait_seconds = throttles.longest_wait(free_at, subjects, now())
    if wait_seconds:
        raise Throttled(wait_seconds)


def of_login(account: str, address: str, *, is_known: bool) -> list[Subject]:
    """`account` is the id of the account, whatever spelling of its address found it; the address where none is found.

    From an address that is known to the account, only attempts from there count. So guessing from elsewhere cannot
    lock the owner out.
    """
    if is_known:
        return [subject(LOGIN, f"{account}|{neighbourhood(address)}", throttling.LOGIN_OF_ACCOUNT)]
    return [
        subject(LOGIN, account, throttling.LOGIN_OF_ACCOUNT),
        *_outside(LOGIN, address, throttling.LOGIN_FROM_ADDRESS, throttling.LOGIN_FROM_NETWORK),
    ]


def of_registration(address: str) -> list[Subject]:
    return _outside("register", address, throttling.REGISTRATION_FROM_ADDRESS, throttling.REGISTRATION_FROM_NETWORK)


def of_mail(account: str, address: str) -> list[Subject]:
    """`account` as in `of_login`."""
    return [
        subject(MAIL, account, throttling.MAIL_TO_ACCOUNT),
        *_outside(MAIL, address, throttling.MAIL_FROM_ADDRESS, throttling.MAIL_FROM_NETWORK),
    ]


def of_move(account: str, address: str) -> list[Subject]:
    """Of a new address of the account, which is sent a mail. What strangers ask for does not count for it."""
    return [
        subject("move", account, throttling.MAIL_TO_ACCOUNT),
        *_outside(MAIL, address, throttling.MAIL_FROM_ADDRESS, throttling.MAIL_FROM_NETWORK),
    ]


def of_token(address: str) -> list[Subject]:
    return [subject("token", neighbourhood(address), throttling.TOKEN_FROM_ADDRESS)]


def _outside(action: str, address: str, from_address: Pace, from_network: Pace) -> list[Subject]:
    return [
        subject(f"{action}-from", neighbourhood(address), from_address),
        subject(f"{action}-network", network(address), from_network),
    ]


def record_failure(kind: Kind, *, address: str, user_id: UUID | None = None) -> None:
    """Counts and logs a failed sign-in, of `user_id` where the account is known.

    What was sent is never logged: a typo may be close to the secret. Nor are all tokens that nobody issued, or
    strangers could fill the log.
    """
    metrics.FAILED_SIGN_INS.labels(kind).inc()
    if kind != "password" and user_id is None and not _logged_tokens.take(kind):
        return
    _log.warning("sign_in_failed", kind=kind, address=address, user_id=None if user_id is None else str(user_id))
