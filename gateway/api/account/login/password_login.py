"""Password login: throttled, hashed in a thread, and as slow for an unknown address as for a wrong password."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.api.account.dependencies import AccountDependencies
from gateway.api.account.login.throttling import LOGIN, of_login, record_failure
from gateway.api.account.schemas import TokenPair
from gateway.api.errors import NotAuthenticated, Suspended
from gateway.clock import now
from gateway.ledger.accounts import login_sessions, users
from gateway.ledger.accounts.login_sessions import LoginAccount
from policies.access.throttling import Subject
from policies.access.tokens import REFRESH_BYTES, digest, refresh_token
from policies.model import AccountStatus

_WRONG = "The e-mail address or the password is wrong."


async def sign_in(dependencies: AccountDependencies, email: str, *, password: str, address: str) -> TokenPair:
    """A new session. Raises NotAuthenticated in the same time for wrong passwords and unknown addresses, Suspended."""
    account = await check_password(dependencies, email, password=password, address=address)
    if account.status is AccountStatus.SUSPENDED:
        raise Suspended("This account is suspended.")
    secret = refresh_token(dependencies.entropy(REFRESH_BYTES))
    async with dependencies.database.transaction() as connection:
        if not await login_sessions.has_password(connection, account.user_id, account.password_hash):
            raise NotAuthenticated(_WRONG)
        expires_at = now() + dependencies.lifetimes.refresh
        session_id = await login_sessions.create(
            connection, account.user_id, token_hash=digest(secret), expires_at=expires_at, address=address
        )
    return dependencies.tokens.pair(account.user_id, session_id, refresh_token=secret)


async def find_attempt(
    dependencies: AccountDependencies, email: str, *, address: str
) -> tuple[LoginAccount | None, Sequence[Subject]]:
    """The account of a login, and what the login counts for. Raises Throttled; counts nothing."""
    dependencies.throttle.check_held_back(LOGIN, email, address=address)
    attempt = of_login(email, address, is_known=False)
    found = await login_sessions.find_account(
        dependencies.database, email, address=address, action=LOGIN, subjects=attempt
    )
    if found.account is not None:
        attempt = of_login(str(found.account.user_id), address, is_known=found.account.is_known_address)
    dependencies.throttle.check(LOGIN, email, attempt=attempt, found=found)
    return found.account, attempt


async def check_password(dependencies: AccountDependencies, email: str, *, password: str, address: str) -> LoginAccount:
    """The account of the password. Only failures count for the throttle. Raises as `sign_in`, and Throttled."""
    account, attempt = await find_attempt(dependencies, email, address=address)
    password_hash = None if account is None else account.password_hash
    async with dependencies.throttle.taken(attempt):
        is_right, stronger = await dependencies.hasher.verify(password, password_hash, address=address)
    if account is None or not is_right:
        record_failure("password", address=address, user_id=None if account is None else account.user_id)
        raise NotAuthenticated(_WRONG)
    await dependencies.throttle.give_back(attempt)
    if stronger is not None:
        async with dependencies.database.transaction() as connection:
            is_replaced = await users.update_password_hash(
                connection, account.user_id, old=account.password_hash, new=stronger
            )
        if not is_replaced:  # another login was faster, or the password was changed: the new hash tells
            return await check_password(dependencies, email, password=password, address=address)
        return replace(account, password_hash=stronger)
    return account
