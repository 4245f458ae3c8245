"""What endpoints work with, and who is asking; an endpoint names both in its signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.account.key_reader import KeyReader
from gateway.api.account.login.access_tokens import AccessTokens
from gateway.api.account.login.password_hashing import Hasher
from gateway.api.account.login.throttling import Throttle
from gateway.api.dry_run import DryRun
from gateway.api.errors import NotAuthenticated, Suspended
from gateway.api.key_factory import KeyFactory
from gateway.api.unit_of_work import ChangePublisher, UnitOfWork
from gateway.ledger.accounts import login_sessions
from gateway.ledger.accounts.users import User
from gateway.ledger.db.session import Database
from policies.model import AccountStatus, Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long what is handed out is good for."""

    access: timedelta
    refresh: timedelta
    verify_email: timedelta
    reset_password: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What the account API is built from. The desks that it gives share one herald."""

    database: Database
    publisher: ChangePublisher
    key_factory: KeyFactory
    tokens: AccessTokens
    hasher: Hasher
    throttle: Throttle
    entropy: Callable[[int], bytes]
    lifetimes: Lifetimes
    key_reader: KeyReader
    dry_run: DryRun
    # By name, as the configuration has them now.
    routes: Mapping[str, Route]
    secret: str = field(repr=False)

    def unit_of_work(self, actor: str) -> UnitOfWork:
        return UnitOfWork(self.database, self.publisher, actor=actor)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who is asking, by which session, and the desk at which that user changes things."""

    user: User
    session_id: UUID
    unit_of_work: UnitOfWork

    @property
    def id(self) -> UUID:
        return self.user.id


def dependencies(request: Request) -> Dependencies:
    dependencies: Dependencies = request.app.state.dependencies
    return dependencies


DependenciesDep = Annotated[Dependencies, Depends(dependencies)]


def client_address(request: Request) -> str:
    return request.client.host if request.client else ""


ClientAddress = Annotated[str, Depends(client_address)]

bearer_of = HTTPBearer(scheme_name="access_token", bearerFormat="JWT", auto_error=False)
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer_of)]


async def signed_in(dependencies: Dependencies, bearer: HTTPAuthorizationCredentials | None) -> SignedIn:
    """Raises NotAuthenticated without a valid access token of a session that goes on, Suspended."""
    if bearer is None:
        raise NotAuthenticated("Send your access token as `Authorization: Bearer ACCESS_TOKEN`.")
    session_id = dependencies.tokens.read(bearer.credentials)
    if session_id is None:
        raise NotAuthenticated("The access token is not valid, or no longer; refresh it or log in.")
    async with dependencies.database.read() as connection:
        user = await user_of(connection, session_id)
    return SignedIn(user, session_id, dependencies.unit_of_work(f"user:{user.id}"))


async def user_of(connection: AsyncConnection, session_id: UUID) -> User:
    user = await login_sessions.find_user(connection, session_id)
    if user is None:
        raise NotAuthenticated("This session is over; log in.")
    if user.status is AccountStatus.SUSPENDED:
        raise Suspended("This account is suspended.")
    return user


def _me(request: Request, _bearer: Bearer) -> SignedIn:
    """Found out before the body was read (`guarding.py`)."""
    caller: SignedIn = request.state.caller
    return caller


Me = Annotated[SignedIn, Depends(_me)]


def _unit_of_work(me: Me) -> UnitOfWork:
    return me.unit_of_work


def _key_factory(dependencies: DependenciesDep) -> KeyFactory:
    return dependencies.key_factory


UnitOfWorkDep = Annotated[UnitOfWork, Depends(_unit_of_work)]
KeyFactoryDep = Annotated[KeyFactory, Depends(_key_factory)]
