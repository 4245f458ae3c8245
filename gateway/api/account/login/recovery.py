"""One-time tokens by e-mail: they verify an address, and reset a forgotten password."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.account.dependencies import AccountDependencies, ClientAddress, DependenciesDep, Lifetimes
from gateway.api.account.login import throttling
from gateway.api.account.login.new_passwords import check_new_password
from gateway.api.account.login.throttling import record_failure
from gateway.api.account.schemas import NewPassword, Token
from gateway.api.errors import Invalid
from gateway.api.openapi import THROTTLED
from gateway.api.schemas.fields import LookupEmail
from gateway.api.schemas.pages import RequestModel
from gateway.clock import now
from gateway.ledger.accounts import login_sessions, one_time_tokens, persons, users
from gateway.ledger.accounts.one_time_tokens import ProvenAddress
from gateway.ledger.accounts.users import User
from gateway.ledger.audit import audit_log
from gateway.ledger.db import notifications
from gateway.ledger.db.outbox import bump_account
from policies.access.persons import digest
from policies.access.throttling import Subject
from policies.access.tokens import Purpose, read_one_time

router = APIRouter(prefix="/auth", tags=["auth"])

# What an owner of a verified address did; keys outlive a later move to another one.
_PROOFS = ("account.verify_email", "account.reset_password")
UNUSABLE_TOKEN = "is not valid, was used already or is too old; ask for another"  # noqa: S105 - a message
FindToken = Callable[[AsyncConnection, UUID, Purpose], Awaitable[ProvenAddress | None]]


class PasswordResetRequest(RequestModel):
    email: LookupEmail = Field(examples=["ada@example.com"])


class EmailVerification(RequestModel):
    token: Token = Field(description="Out of the mail.")


class PasswordReset(EmailVerification):
    password: NewPassword


@router.post("/forgot-password", status_code=202, summary="Ask for a mail to set a new password", responses=THROTTLED)
async def forgot_password(
    body: PasswordResetRequest, dependencies: DependenciesDep, address: ClientAddress, later: BackgroundTasks
) -> None:
    """The same answer whether or not there is an account of this address."""
    await dependencies.throttle.take(await find_attempt(dependencies, body.email, address=address))
    later.add_task(_send_reset, dependencies, body.email)  # after the response, so that its time reveals no account


async def find_attempt(dependencies: AccountDependencies, email: str, *, address: str) -> Sequence[Subject]:
    """What a request for a mail counts for. Raises Throttled; counts nothing."""
    action, throttle = throttling.MAIL, dependencies.throttle
    throttle.check_held_back(action, email, address=address)
    attempt = throttling.of_mail(email, address)
    found = await login_sessions.find_account(
        dependencies.database, email, address=address, action=action, subjects=attempt
    )
    if found.account is not None:
        attempt = throttling.of_mail(str(found.account.user_id), address)
    throttle.check(action, email, attempt=attempt, found=found)
    return attempt


@router.post("/reset-password", status_code=204, summary="Set a new password by a mail", responses=THROTTLED)
async def reset_password(body: PasswordReset, dependencies: DependenciesDep, address: ClientAddress) -> None:
    """All sessions of the account end; where its address was not verified before, all its API keys are revoked too."""
    token_id = read_one_time(dependencies.secret, Purpose.RESET_PASSWORD, body.token)
    async with dependencies.throttle.taken(throttling.of_token(address)):
        # Looked up before anything is hashed, and redeemed afterwards.
        async with dependencies.database.look_up() as connection:
            user = await _user_of(
                connection, token_id, Purpose.RESET_PASSWORD, address=address, find=one_time_tokens.find
            )
        await check_new_password(body.password, email=user.email, field="password")
        password_hash = await dependencies.hasher.hash(body.password, address=address)
    async with dependencies.unit_of_work("mail").change() as change:
        connection = change.connection
        user = await _user_of(connection, token_id, Purpose.RESET_PASSWORD, address=address)
        # The token in the e-mail proves the address too.
        verified_at = user.email_verified_at or now()
        if user.email_verified_at is None:
            # Somebody else may have registered the address, and made keys, before its owner proved it.
            await users.revoke_unproven_keys(connection, user.id)
        await users.patch(connection, user.id, password_hash=password_hash, email_verified_at=verified_at)
        await _recognise(connection, dependencies, user)
        await login_sessions.revoke_all(connection, user.id)
        await change.record("account.reset_password", "user", entity_id=user.id)
        await notifications.enqueue(connection, user.id, kind="account.password_changed", payload={})


@router.post("/verify-email", status_code=204, summary="Verify an address by a mail", responses=THROTTLED)
async def verify_email(body: EmailVerification, dependencies: DependenciesDep, address: ClientAddress) -> None:
    """The first time, the account's API keys are revoked, and sessions that began at another address than this request.

    Who made them had not proved to own the address.
    """
    token_id = read_one_time(dependencies.secret, Purpose.VERIFY_EMAIL, body.token)
    async with dependencies.unit_of_work("mail").change() as change:
        user = await _user_of(change.connection, token_id, Purpose.VERIFY_EMAIL, address=address)
        if not await audit_log.has_entry(change.connection, entity="user", entity_id=user.id, actions=_PROOFS):
            await users.revoke_unproven_keys(change.connection, user.id)
            await login_sessions.revoke_elsewhere(change.connection, user.id, address=address)
        await users.patch(change.connection, user.id, email_verified_at=now())
        await _recognise(change.connection, dependencies, user)
        await change.record("account.verify_email", "user", entity_id=user.id)
        await notifications.enqueue(
            change.connection, user.id, kind="account.email_verified", payload={}, channels=(notifications.WEBHOOK,)
        )


async def _recognise(connection: AsyncConnection, dependencies: AccountDependencies, user: User) -> None:
    """The address is proven: whose it was before is told by its person."""
    await persons.remember(connection, user.id, digest(dependencies.secret, user.email), is_proven=True)
    await persons.recognise(connection, user.id, now=now(), actor=f"user:{user.id}")


async def _send_reset(dependencies: AccountDependencies, email: str) -> None:
    async with dependencies.database.transaction() as connection:
        user = await users.get_by_email(connection, email)
        if user is not None:
            await send_reset(connection, user, dependencies.lifetimes)


async def _redeem(connection: AsyncConnection, token_id: UUID, purpose: Purpose) -> ProvenAddress | None:
    """Locks the user before the token, as a move to another address does, so that the address stays what it is."""
    proof = await one_time_tokens.find(connection, token_id, purpose)
    if proof is not None:
        await bump_account(connection, proof.user_id)
    return await one_time_tokens.redeem(connection, token_id, purpose)


async def _user_of(
    connection: AsyncConnection,
    token_id: UUID | None,
    purpose: Purpose,
    *,
    address: str,
    find: FindToken = _redeem,
) -> User:
    """Consumes the token. Raises Invalid for an unusable token, or one of a former address of the user."""
    proof = None if token_id is None else await find(connection, token_id, purpose)
    user = None if proof is None else await users.get(connection, proof.user_id)
    if proof is None or user is None or user.email != proof.email:
        record_failure("one_time_token", address=address)
        raise Invalid("token", UNUSABLE_TOKEN)
    return user


async def ask_to_verify(connection: AsyncConnection, user: User, lifetimes: Lifetimes) -> None:
    """Enqueues an e-mail to the present address of the user."""
    await _send(connection, user, Purpose.VERIFY_EMAIL, lifetimes=lifetimes)


async def send_reset(connection: AsyncConnection, user: User, lifetimes: Lifetimes) -> None:
    await _send(connection, user, Purpose.RESET_PASSWORD, lifetimes=lifetimes)


async def _send(connection: AsyncConnection, user: User, purpose: Purpose, *, lifetimes: Lifetimes) -> None:
    lifetime = lifetimes.verify_email if purpose is Purpose.VERIFY_EMAIL else lifetimes.reset_password
    expires_at = now() + lifetime
    token_id = await one_time_tokens.issue(
        connection, user.id, purpose=purpose, email=user.email, expires_at=expires_at
    )
    # The id, not the token: the worker derives the token from it, so that no table holds one.
    payload = {"token_id": str(token_id), "expires_at": expires_at.isoformat()}
    await notifications.enqueue(
        connection, user.id, kind=f"account.{purpose}", payload=payload, channels=(notifications.MAIL,)
    )
