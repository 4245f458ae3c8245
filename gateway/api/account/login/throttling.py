"""Throttling of attempts before a password is checked: per account, per address and per network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Literal
from uuid import UUID

import structlog

from gateway import metrics
from gateway.api.errors import Busy, Throttled
from gateway.clock import now
from gateway.ledger.accounts import throttles
from gateway.ledger.db.session import Database
from policies.access import throttling
from policies.access.throttling import Pace, Subject, neighbourhood, network, subject

Kind = Literal["password", "refresh_token", "one_time_token"]
# Actions of accounts, whose subjects PostgreSQL makes too (`login_sessions.find_account`).
LOGIN, MAIL = "login", "mail"
_log = structlog.get_logger()


class Throttle:
    """Counts attempts in PostgreSQL, shared by all processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

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


def of_token(address: str) -> list[Subject]:
    return [subject("token", neighbourhood(address), throttling.TOKEN_FROM_ADDRESS)]


def _outside(action: str, address: str, from_address: Pace, from_network: Pace) -> list[Subject]:
    return [
        subject(f"{action}-from", neighbourhood(address), from_address),
        subject(f"{action}-network", network(address), from_network),
    ]


def record_failure(kind: Kind, *, address: str, user_id: UUID | None = None) -> None:
    """Counts and logs a failed sign-in, of `user_id` where the account is known.

    What was sent is never logged: a typo may be close to the secret.
    """
    metrics.FAILED_SIGN_INS.labels(kind).inc()
    _log.warning("sign_in_failed", kind=kind, address=address, user_id=None if user_id is None else str(user_id))
