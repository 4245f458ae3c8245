"""Registering, logging in, staying logged in, logging out."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body
from pydantic import Field

from gateway.api.account.authentication import Bearer
from gateway.api.account.dependencies import AccountDependencies, ClientAddress, DependenciesDep
from gateway.api.account.login import throttling
from gateway.api.account.login.new_passwords import check_new_password
from gateway.api.account.login.password_login import sign_in
from gateway.api.account.login.recovery import ask_to_verify
from gateway.api.account.login.throttling import record_failure
from gateway.api.account.schemas import NewPassword, Password, Profile, Token, TokenPair
from gateway.api.errors import NotAuthenticated, Suspended
from gateway.api.openapi import SIGNED_IN, THROTTLED
from gateway.api.schemas.fields import Email, Line, LookupEmail
from gateway.api.schemas.pages import RequestModel
from gateway.clock import now
from gateway.ledger.accounts import login_sessions, users
from gateway.ledger.db import notifications
from gateway.ledger.db.errors import AlreadyExists
from gateway.ledger.db.tables import new_id
from policies.access import tokens
from policies.access.persons import digest
from policies.access.tokens import REFRESH_BYTES, Verdict
from policies.model import AccountStatus

router = APIRouter(prefix="/auth", tags=["auth"])


UNUSABLE_TOKEN = "The refresh token is not valid, or no longer; log in."  # noqa: S105 - a message
NO_SESSION = "Send the refresh token of the session, or its access token."


class Registration(RequestModel):
    email: Email = Field(examples=["ada@example.com"])
    password: NewPassword
    name: Line | None = Field(default=None, examples=["Ada Lovelace"])
    company: Line | None = None


class Login(RequestModel):
    email: LookupEmail = Field(examples=["ada@example.com"])
    password: Password


class TokenRefresh(RequestModel):
    refresh_token: Token


class Logout(RequestModel):
    refresh_token: Token | None = Field(default=None, description="null: the session of the access token ends.")


@router.post("/register", status_code=201, summary="Open an account", responses=THROTTLED)
async def register(body: Registration, dependencies: DependenciesDep, address: ClientAddress) -> Profile:
    """A mail asks to verify the address. Log in to go on.

    The answer is the same where the address has an account already, which then stays as it is: a mail tells its owner.
    """
    await check_new_password(body.password, email=body.email, field="password")
    async with dependencies.throttle.taken(throttling.of_registration(address)):
        password_hash = await dependencies.hasher.hash(body.password, address=address)
    try:
        return await _open_account(dependencies, body, password_hash)
    except AlreadyExists:
        return await _tell_owner(dependencies, body)


@router.post("/login", summary="Log in", responses=SIGNED_IN | THROTTLED)
async def login(body: Login, dependencies: DependenciesDep, address: ClientAddress) -> TokenPair:
    return await sign_in(dependencies, body.email, password=body.password, address=address)


@router.post("/refresh", summary="Get the next pair of tokens", responses=SIGNED_IN | THROTTLED)
async def refresh(body: TokenRefresh, dependencies: DependenciesDep, address: ClientAddress) -> TokenPair:
    """Each refresh token is good once, and for seconds more, since two tabs of a browser may refresh at the same time.

    One that comes later ends the session, for one of the two was stolen.
    """
    found = await _use(dependencies, body.refresh_token)
    if isinstance(found, TokenPair):
        return found
    if found is AccountStatus.SUSPENDED:
        raise Suspended("This account is suspended.")
    if found is not Verdict.EXPIRED:
        record_failure("refresh_token", address=address)
    raise NotAuthenticated(UNUSABLE_TOKEN)


@router.post("/logout", status_code=204, summary="End the session", responses=THROTTLED | {401: SIGNED_IN[401]})
async def logout(dependencies: DependenciesDep, bearer: Bearer, body: Annotated[Logout | None, Body()] = None) -> None:
    """By its refresh token, or else by the access token. Its tokens are good no longer, from the next request on."""
    async with dependencies.database.transaction() as connection:
        if body is not None and body.refresh_token is not None:
            found = await login_sessions.get_refresh_for_update(connection, tokens.digest(body.refresh_token))
            session_id = None if found is None else found.session_id
        else:
            session_id = read_session(dependencies, bearer)
        if session_id is not None:
            await login_sessions.revoke(connection, session_id)
    if session_id is None:
        raise NotAuthenticated(NO_SESSION)


def read_session(dependencies: AccountDependencies, bearer: Bearer) -> UUID | None:
    """The session of a valid access token, whether it is over or not."""
    return None if bearer is None else dependencies.tokens.read(bearer.credentials)


async def end_session(dependencies: AccountDependencies, session_id: UUID) -> None:
    async with dependencies.database.transaction() as connection:
        await login_sessions.revoke(connection, session_id)


async def _open_account(dependencies: AccountDependencies, body: Registration, password_hash: str) -> Profile:
    """Raises AlreadyExists."""
    async with dependencies.unit_of_work("anonymous").change() as change:
        user = await users.create(
            change.connection,
            body.email,
            password_hash=password_hash,
            name=body.name,
            company=body.company,
            persons=(digest(dependencies.secret, body.email),),
        )
        shown = Profile.model_validate(user)
        await change.record("account.register", "user", entity_id=user.id, after=shown)
        await ask_to_verify(change.connection, user, dependencies.lifetimes)
        await notifications.enqueue(
            change.connection, user.id, kind="account.registered", payload={}, channels=(notifications.WEBHOOK,)
        )
    return shown


async def _tell_owner(dependencies: AccountDependencies, body: Registration) -> Profile:
    """Mails the owner of the address, once a day; gives what a new account would be shown as."""
    at = now()
    async with dependencies.database.transaction() as connection:
        owner = await users.get_by_email(connection, body.email)
        if owner is not None:
            once = f"account.registered_again:{at:%Y-%m-%d}"
            mail = (notifications.MAIL,)
            await notifications.enqueue(
                connection, owner.id, kind="account.registered_again", payload={}, once=once, channels=mail
            )
    unsaved = {"id": new_id(), "email": body.email, "name": body.name, "company": body.company}
    unset = dict.fromkeys(("email_verified_at", "billing_address", "vat_id"))
    return Profile(**unsaved, **unset, time_zone="UTC", status=AccountStatus.ACTIVE, created_at=at)


async def _use(dependencies: AccountDependencies, refresh_token: str) -> TokenPair | AccountStatus | Verdict | None:
    """The next pair, or what speaks against it. Commits in any case: a theft that was found must end the session."""
    used = tokens.digest(refresh_token)
    async with dependencies.database.transaction() as connection:
        found = await login_sessions.get_refresh_for_update(connection, used)
        if found is None:
            return None
        verdict = tokens.judge(found.state, now(), reuse_window=dependencies.lifetimes.refresh_reuse)
        if verdict is Verdict.REUSED:
            await login_sessions.revoke(connection, found.session_id)
            await notifications.enqueue(connection, found.user_id, kind="account.token_reused", payload={})
        if verdict is not Verdict.GOOD:
            return verdict
        if found.user_status is not AccountStatus.ACTIVE:
            return found.user_status
        secret = tokens.refresh_token(dependencies.entropy(REFRESH_BYTES))
        await login_sessions.rotate(
            connection,
            found.session_id,
            used_hash=used,
            next_hash=tokens.digest(secret),
            expires_at=now() + dependencies.lifetimes.refresh,
        )
    return dependencies.tokens.pair(found.user_id, found.session_id, refresh_token=secret)
