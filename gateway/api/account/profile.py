"""The caller's own account: profile, password, deletion."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.account.dependencies import ClientAddress, DependenciesDep, Me
from gateway.api.account.login import throttling
from gateway.api.account.login.new_passwords import check_new_password
from gateway.api.account.login.password_login import check_password
from gateway.api.account.login.recovery import ask_to_verify
from gateway.api.account.schemas import NewPassword, Password, Profile
from gateway.api.errors import Invalid, NotAuthenticated
from gateway.api.openapi import CONFLICTS, SIGNED_IN, THROTTLED
from gateway.api.schemas.fields import Email, Line, Lines, TimeZone
from gateway.api.schemas.pages import PatchModel, RequestModel, unset
from gateway.clock import now
from gateway.ledger.accounts import erasure, login_sessions, one_time_tokens, persons, users
from gateway.ledger.db import notifications
from gateway.ledger.db.outbox import bump_account
from policies.access.persons import digest
from policies.access.tokens import Purpose

router = APIRouter(prefix="/me", tags=["account"], responses=SIGNED_IN)


class ProfilePatch(PatchModel):
    """A new address takes the password, and has to be verified again: by a mail, of which there are few in an hour."""

    name: Line | None = None
    company: Line | None = None
    billing_address: Lines | None = Field(default=None, description="Lines of print, for your invoices from now on.")
    vat_id: Line | None = None
    time_zone: TimeZone = unset()
    email: Email = unset()
    password: Password | None = Field(default=None, description="The present one; needed for a new `email` only.")


class Deletion(RequestModel):
    password: Password


class PasswordChange(RequestModel):
    current_password: Password
    new_password: NewPassword


@router.get("", summary="Your account")
async def get_me(me: Me) -> Profile:
    return Profile.model_validate(me.user)


@router.patch("", summary="Change your account", responses=CONFLICTS | THROTTLED)
async def change_me(patch: ProfilePatch, me: Me, dependencies: DependenciesDep, address: ClientAddress) -> Profile:
    changes = patch.changes()
    password = changes.pop("password", None)
    is_moving = "email" in changes and changes["email"] != me.user.email
    checked = None
    if is_moving:
        checked = await _check(dependencies, me, password, field="password", address=address)
        await dependencies.throttle.take(throttling.of_move(str(me.id), address))
        changes["email_verified_at"] = None
    async with me.unit_of_work.change() as change:
        before = Profile.model_validate(me.user)
        if is_moving:
            await _check_unchanged(change.connection, me, checked, field="password")
            await _remember_person(change.connection, me, dependencies)
            moved_to = digest(dependencies.secret, changes["email"])
            await persons.remember(change.connection, me.id, moved_to, is_proven=False)
        user = await users.patch(change.connection, me.id, **changes)
        after = Profile.model_validate(user)
        await change.record("account.change", "user", entity_id=me.id, before=before, after=after)
        if is_moving:
            await ask_to_verify(change.connection, user, dependencies.lifetimes)
            await _tell_former_address(change.connection, me)
    return after


@router.delete("", status_code=204, summary="Delete your account", responses=THROTTLED)
async def delete_me(body: Deletion, me: Me, dependencies: DependenciesDep, address: ClientAddress) -> None:
    """Takes the password, and is for good: personal data is erased, keys and tokens are revoked, the subscription ends,
    at its payment provider within minutes. What was paid for and used stays on record under an account without a name;
    invoices that were issued keep the name that they were issued to.
    A digest of your address is kept for a time: free credits and trials are had once, and debts return.
    """
    checked = await _check(dependencies, me, body.password, field="password", address=address)
    async with me.unit_of_work.change() as change:
        await _check_unchanged(change.connection, me, checked, field="password")
        await _remember_person(change.connection, me, dependencies)
        await erasure.erase(change.connection, me.id, now=now())
        await change.record("account.delete", "user", entity_id=me.id)  # without the personal data that is deleted


@router.post("/password", status_code=204, summary="Change your password", responses=THROTTLED)
async def change_password(body: PasswordChange, me: Me, dependencies: DependenciesDep, address: ClientAddress) -> None:
    """Your other sessions end, and a mail to set a new password that was asked for before is good no longer."""
    await check_new_password(body.new_password, email=me.user.email, field="new_password")
    checked = await _check(dependencies, me, body.current_password, field="current_password", address=address)
    password_hash = await dependencies.hasher.hash(body.new_password, address=address)
    async with me.unit_of_work.change() as change:
        await _check_unchanged(change.connection, me, checked, field="current_password")
        await users.patch(change.connection, me.id, password_hash=password_hash)
        await login_sessions.revoke_all(change.connection, me.id, exclude=me.session_id)
        await one_time_tokens.revoke(change.connection, me.id, Purpose.RESET_PASSWORD)
        await change.record("account.change_password", "user", entity_id=me.id)
        await notifications.enqueue(change.connection, me.id, kind="account.password_changed", payload={})


@router.post(
    "/verify-email", status_code=202, summary="Have the mail to verify your address sent again", responses=THROTTLED
)
async def resend_verification(me: Me, dependencies: DependenciesDep, address: ClientAddress) -> None:
    """Where the address is verified already nothing is sent."""
    if me.user.email_verified_at is None:
        await dependencies.throttle.take(throttling.of_mail(str(me.id), address))
        async with dependencies.database.transaction() as connection:
            await ask_to_verify(connection, me.user, dependencies.lifetimes)


async def _remember_person(connection: AsyncConnection, me: Me, dependencies: DependenciesDep) -> None:
    is_proven = me.user.email_verified_at is not None
    await persons.remember(connection, me.id, digest(dependencies.secret, me.user.email), is_proven=is_proven)


async def _tell_former_address(connection: AsyncConnection, me: Me) -> None:
    """Who reads mail there may be the owner, and not the one who moved the account. Not where nobody proved to be."""
    if me.user.email_verified_at is not None:
        payload = {notifications.RECIPIENT: me.user.email}
        channels = (notifications.MAIL,)
        await notifications.enqueue(connection, me.id, kind="account.email_changed", payload=payload, channels=channels)


async def _check(
    dependencies: DependenciesDep, me: Me, password: str | None, *, field: str, address: str
) -> str | None:
    """The hash of the password. Raises Invalid, not NotAuthenticated: the session is valid, and needs no new login."""
    if password is None:
        raise Invalid(field, "required")
    try:
        account = await check_password(dependencies, me.user.email, password=password, address=address)
    except NotAuthenticated:
        raise Invalid(field, "is not your password") from None
    return account.password_hash


async def _check_unchanged(connection: AsyncConnection, me: Me, password_hash: str | None, *, field: str) -> None:
    """Locks the user. Raises Invalid where the password was reset or changed since it was checked."""
    await bump_account(connection, me.id)
    if not await login_sessions.has_password(connection, me.id, password_hash):
        raise Invalid(field, "is not your password")
