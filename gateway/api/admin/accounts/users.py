"""Users: the accounts that are limited, charged and billed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.admin.billing.subscriptions import Subscription
from gateway.api.admin.catalogue.plans import offered_plan
from gateway.api.admin.dependencies import ActorDep, ReasonDep, UnitOfWorkDep
from gateway.api.admin.preconditions import STALE, PreconditionDep, TaggingDep
from gateway.api.admin.scopes import ADMIN
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.fields import Email, Instant, Line, Lines, LookupEmail, Metadata, TimeZone
from gateway.api.schemas.pages import PageModel, PageQuery, PatchModel, RequestModel, ResponseModel, page_of, unset
from gateway.clock import now
from gateway.ledger.accounts import erasure, persons, user_lists, users
from gateway.ledger.accounts.user_lists import ListedUser, UserFilter
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.outbox import bump_account
from gateway.ledger.subscriptions import lifecycle, subscriptions
from policies.model import AccountStatus, SubscriptionStatus

router = APIRouter(prefix="/users", tags=["users"])

# Whoever moves the address can ask for a new password there.
_OWNERSHIP = ("email", "email_verified_at", "role")


class User(ResponseModel):
    id: UUID
    email: str
    name: str | None
    company: str | None
    billing_address: str | None
    vat_id: str | None
    status: AccountStatus
    role: str
    external_id: str | None
    email_verified_at: datetime | None
    time_zone: str
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class UserWithSubscription(User):
    subscription: Subscription | None = Field(description="The one the account lives on; null where it has none.")


class UserSummary(User):
    plan_id: str | None = Field(description="Of the current subscription; null where there is none.")
    subscription_status: SubscriptionStatus | None
    current_credits: int = Field(description="Some seconds behind the calls themselves.")


class NewUser(RequestModel):
    email: Email = Field(examples=["ada@example.com"])
    name: Line | None = Field(default=None, examples=["Ada Lovelace"])
    company: Line | None = None
    billing_address: Lines | None = Field(default=None, description="Lines of print, for invoices.")
    vat_id: Line | None = None
    plan: Line | None = Field(
        default=None,
        examples=["pro"],
        description="Starts a subscription to this plan, named by its name or id. Needs `subscriptions:write` too.",
    )
    external_id: Line | None = Field(default=None, description="The id this user has in your own system; unique.")
    time_zone: TimeZone = Field(default="UTC", examples=["Europe/Berlin"])
    metadata: Metadata = Field(default_factory=dict)


class UserPatch(PatchModel):
    """Another `email`, `role` or `email_verified_at` decides who owns the account, and needs `admin:write` too."""

    email: Email = unset()
    name: Line | None = None
    company: Line | None = None
    billing_address: Lines | None = None
    vat_id: Line | None = None
    role: Literal["user", "admin"] = unset()
    external_id: Line | None = None
    email_verified_at: Instant | None = None
    time_zone: TimeZone = unset()
    metadata: Metadata = unset()


class UserQuery(PageQuery):
    email: LookupEmail | None = Field(default=None, description="Only the user of this address.")
    external_id: Line | None = Field(default=None, description="Only the user of this id of your own system.")
    words: Line | None = Field(
        default=None,
        examples=["love"],
        description="Words of address, name or company, or their beginnings, of 3 characters or more.",
    )
    status: AccountStatus | None = None
    plan_id: Line | None = Field(default=None, description="The plan's id, of the current subscription.")
    subscription_status: Literal["trialing", "active", "past_due", "paused"] | None = Field(
        default=None, description="Of the current subscription."
    )
    sort: Annotated[str, StringConstraints(pattern=rf"^-?({'|'.join(user_lists.SORTABLE)})$")] | None = Field(
        default=None,
        examples=["current_credits"],
        description=f"One of {', '.join(user_lists.SORTABLE)}, descending with a leading `-`; else newest first.",
    )


@router.post("", status_code=201, summary="Create a user", responses=UNKNOWN | CONFLICTS)
async def create_user(body: NewUser, unit_of_work: UnitOfWorkDep, actor: ActorDep) -> UserWithSubscription:
    """Without a plan the account has no subscription yet, and its keys are refused with 402."""
    if body.plan is not None:
        actor.require("subscriptions:write")
    fields = body.model_dump(exclude={"email", "plan"})
    async with unit_of_work.change() as change:
        user = await users.create(change.connection, body.email, **fields)
        if body.plan is not None:
            plan = await offered_plan(change.connection, body.plan)
            await lifecycle.start(change.connection, user.id, plan_id=plan.id, now=now(), actor=change.actor)
        created = await _detailed(change.connection, user)
        await change.record("users.create", "user", entity_id=user.id, after=created)
    return created


@router.get("", summary="List users")
async def list_users(query: Annotated[UserQuery, Query()], unit_of_work: UnitOfWorkDep) -> PageModel[UserSummary]:
    """Newest first unless `sort` says otherwise, with plan and balance: `subscription_status=past_due` are those whose
    payment has failed, `sort=current_credits` begins with the deepest debts."""
    wanted = UserFilter(**query.model_dump(exclude={"sort", "limit", "cursor"}))
    async with unit_of_work.read() as connection:
        page = await user_lists.list_users(connection, wanted, sort=query.sort, cursor=query.cursor, limit=query.limit)
    return page_of(page, _summary)


def _summary(listed: ListedUser) -> UserSummary:
    own = {name: getattr(listed, name) for name in UserSummary.model_fields if name not in User.model_fields}
    return UserSummary(**User.model_validate(listed.user).model_dump(), **own)


@router.get("/{user_id}", summary="Get a user", responses=UNKNOWN)
async def get_user(user_id: UUID, unit_of_work: UnitOfWorkDep, tagging: TaggingDep) -> UserWithSubscription:
    async with unit_of_work.read() as connection:
        return tagging.tagged(await _detailed(connection, await existing_user(connection, user_id)))


@router.patch("/{user_id}", summary="Change a user", responses=UNKNOWN | CONFLICTS | STALE)
async def change_user(
    user_id: UUID, patch: UserPatch, unit_of_work: UnitOfWorkDep, actor: ActorDep, precondition: PreconditionDep
) -> User:
    changes = patch.changes()
    async with unit_of_work.change() as change:
        before = await _locked(change.connection, user_id)
        precondition.check(before)
        if any(name in changes and changes[name] != getattr(before, name) for name in _OWNERSHIP):
            actor.require(ADMIN)
        after = User.model_validate(await users.patch(change.connection, user_id, **changes))
        if changes.get("email_verified_at") is not None:
            await persons.remember_only_proof(change.connection, user_id)
            await persons.recognise(change.connection, user_id, now=now(), actor=change.actor)
        await change.record("users.change", "user", entity_id=user_id, before=before, after=after)
    return precondition.tagged(after)


@router.delete("/{user_id}", status_code=204, summary="Delete a user", responses=UNKNOWN | STALE)
async def delete_user(user_id: UUID, unit_of_work: UnitOfWorkDep, precondition: PreconditionDep) -> None:
    """Empties the user of personal data and revokes its keys for good. Its usage and ledger stay, and its invoices as
    they were issued, which sellers have to keep."""
    async with unit_of_work.change() as change:
        precondition.check(await _locked(change.connection, user_id))
        await erasure.erase(change.connection, user_id, now=now())
        await change.record("users.delete", "user", entity_id=user_id)  # without the personal data that is deleted


@router.post("/{user_id}/suspend", summary="Suspend a user", responses=UNKNOWN)
async def suspend_user(user_id: UUID, unit_of_work: UnitOfWorkDep, reason: ReasonDep) -> User:
    """From the very next request on its keys are refused with 403. Suspending again changes nothing.

    Within a minute its payments pause at the provider: what falls due until it is reactivated is never charged. A
    subscription that no provider bills goes on to the end of its period, and begins no other until then.
    """
    async with unit_of_work.change() as change:
        before = await _locked(change.connection, user_id)
        after = User.model_validate(await users.suspend(change.connection, user_id))
        await change.record("users.suspend", "user", entity_id=user_id, before=before, after=after, reason=reason)
    return after


@router.post("/{user_id}/reactivate", summary="Reactivate a suspended user", responses=UNKNOWN)
async def reactivate_user(user_id: UUID, unit_of_work: UnitOfWorkDep, reason: ReasonDep) -> User:
    """Where the period of a subscription that no provider bills has ended meanwhile, another begins now."""
    async with unit_of_work.change() as change:
        before = await _locked(change.connection, user_id)
        after = User.model_validate(await users.reactivate(change.connection, user_id))
        if before.status is AccountStatus.SUSPENDED:
            await lifecycle.continue_reactivated(change.connection, user_id, now=now(), actor=change.actor)
        await change.record("users.reactivate", "user", entity_id=user_id, before=before, after=after, reason=reason)
    return after


async def existing_user(connection: AsyncConnection, user_id: UUID) -> users.User:
    """Raises NotFound, for a deleted user too."""
    user = await users.get(connection, user_id)
    if user is None:
        raise NotFound("user", user_id)
    return user


async def _locked(connection: AsyncConnection, user_id: UUID) -> User:
    """The user, locked: the `before` of the audit row is what this change replaces."""
    await bump_account(connection, user_id)
    return User.model_validate(await existing_user(connection, user_id))


async def _detailed(connection: AsyncConnection, user: users.User) -> UserWithSubscription:
    current = await subscriptions.get_current(connection, user.id)
    shown = None if current is None else Subscription.model_validate(current)
    return UserWithSubscription(**User.model_validate(user).model_dump(), subscription=shown)
