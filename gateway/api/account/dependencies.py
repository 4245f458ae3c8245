"""What endpoints of the account API depend on; an endpoint names what it needs in its signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request

from gateway.api.account.authentication import ApiKey, Bearer, KeyHolder, Session, client_address
from gateway.api.account.billing.invoice_links import LinkHolder
from gateway.api.account.login.access_tokens import AccessTokens
from gateway.api.account.login.password_hashing import PasswordHasher
from gateway.api.account.login.throttling import Throttle
from gateway.api.dry_run import DryRun
from gateway.api.key_factory import DeterministicSecrets, KeyFactory
from gateway.api.unit_of_work import ChangePublisher, UnitOfWork
from gateway.ledger.db.session import Database
from gateway.meter.meter import Meter
from policies.billing.money import CreditValue
from policies.model import Key, Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    access: timedelta
    refresh: timedelta
    verify_email: timedelta
    reset_password: timedelta
    refresh_reuse: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountDependencies:
    """`routes` by name follow the configuration. `credit_value` shows credits as money.

    The units of work share one publisher.
    """

    database: Database
    publisher: ChangePublisher
    key_factory: KeyFactory
    key_prefix: str
    peppers: Mapping[int, bytes] = field(repr=False)
    tokens: AccessTokens
    hasher: PasswordHasher
    throttle: Throttle
    entropy: Callable[[int], bytes]
    lifetimes: Lifetimes
    meter: Meter
    dry_run: DryRun
    routes: Mapping[str, Route]
    credit_value: CreditValue | None
    secret: str = field(repr=False)

    def unit_of_work(self, actor: str) -> UnitOfWork:
        return UnitOfWork(self.database, self.publisher, actor=actor)


def _dependencies(request: Request) -> AccountDependencies:
    found: AccountDependencies = request.app.state.dependencies
    return found


def _session(request: Request, _bearer: Bearer) -> Session:
    """AuthMiddleware authenticated it; `_bearer` documents the security of the operation."""
    caller: Session = request.state.caller
    enclosing = getattr(request.state, "enclosing", None)
    if enclosing is None:
        return caller
    return replace(caller, unit_of_work=caller.unit_of_work.for_actor(caller.name, enclosing=enclosing))


def _reader(request: Request, _bearer: Bearer, _api_key: ApiKey) -> UUID:
    caller: Session | KeyHolder = request.state.caller
    return caller.id


def _any_reader(request: Request, _bearer: Bearer, _api_key: ApiKey) -> UUID | None:
    caller: Session | KeyHolder | None = getattr(request.state, "caller", None)
    return None if caller is None else caller.id


def _invoice_reader(
    request: Request,
    _bearer: Bearer,
    token: Annotated[str | None, Query(description="Of a link, instead of an access token.")] = None,
) -> UUID:
    """The owner of the invoice that a session or a link is for; the authenticator has read the token."""
    del token
    caller: Session | LinkHolder = request.state.caller
    return caller.id


def _key_in_use(request: Request) -> Key | None:
    caller: Session | KeyHolder = request.state.caller
    return caller.key if isinstance(caller, KeyHolder) else None


def _key_factory(request: Request) -> KeyFactory:
    """A request with an Idempotency-Key gets secrets that its replay derives again."""
    secrets: DeterministicSecrets | None = getattr(request.state, "secrets", None)
    factory = _dependencies(request).key_factory
    return factory if secrets is None else factory.with_secrets(secrets.create)


DependenciesDep = Annotated[AccountDependencies, Depends(_dependencies)]
ClientAddress = Annotated[str, Depends(client_address)]
Me = Annotated[Session, Depends(_session)]
# The user whose data is read, by a session or by an API key.
Reader = Annotated[UUID, Depends(_reader)]
# None for a stranger.
AnyReader = Annotated[UUID | None, Depends(_any_reader)]
InvoiceReader = Annotated[UUID, Depends(_invoice_reader)]
# The API key that reads; None for a session.
KeyInUse = Annotated[Key | None, Depends(_key_in_use)]
KeyFactoryDep = Annotated[KeyFactory, Depends(_key_factory)]
