"""Throttling of attempts before a password is checked: per account, per address, and in total."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.api.errors import Throttled
from gateway.clock import now
from gateway.ledger.accounts import throttles
from gateway.ledger.db.session import Database
from policies.access import throttling
from policies.access.throttling import Pace, Subject, neighbourhood, subject


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

    async def give_back(self, subjects: Sequence[Subject]) -> None:
        async with self._database.transaction() as connection:
            await throttles.refund_attempts(connection, subjects)


def of_login(email: str, address: str, *, is_known: bool) -> list[Subject]:
    """From an address that is known to the account, only attempts from there count.

    So guessing from elsewhere cannot lock the owner out.
    """
    if is_known:
        return [subject("login", f"{email}|{neighbourhood(address)}", throttling.LOGIN_OF_ACCOUNT)]
    return [
        subject("login", email, throttling.LOGIN_OF_ACCOUNT),
        *_outside("login", address, throttling.LOGIN_FROM_ADDRESS, throttling.LOGIN_AT_ALL),
    ]


def of_registration(address: str) -> list[Subject]:
    return _outside("register", address, throttling.REGISTRATION_FROM_ADDRESS, throttling.REGISTRATION_AT_ALL)


def of_mail(email: str, address: str) -> list[Subject]:
    return [
        subject("mail", email, throttling.MAIL_TO_ACCOUNT),
        *_outside("mail", address, throttling.MAIL_FROM_ADDRESS, throttling.MAIL_AT_ALL),
    ]


def of_token(address: str) -> list[Subject]:
    return [subject("token", neighbourhood(address), throttling.TOKEN_FROM_ADDRESS)]


def _outside(action: str, address: str, from_address: Pace, at_all: Pace) -> list[Subject]:
    return [subject(f"{action}-from", neighbourhood(address), from_address), subject(f"{action}-all", "", at_all)]
