"""Who calls the account API: a user with a session, or a program by an API key where it may read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import Scope

from gateway.api import problem_pages
from gateway.api.account.billing import invoice_links
from gateway.api.account.billing.invoice_links import LinkHolder
from gateway.api.account.login.access_tokens import AccessTokens
from gateway.api.errors import NotAuthenticated, Suspended
from gateway.api.guesses import Guesses
from gateway.api.unit_of_work import UnitOfWork
from gateway.clock import now
from gateway.ledger.accounts import login_sessions, principals
from gateway.ledger.accounts.users import User
from gateway.ledger.db.session import Database
from policies.access import keys
from policies.model import AccountStatus, Key, Principal, Refusal, Refused

# Paths whose requests name the caller in their body, or need none.
OPEN_PATHS = frozenset({"/openapi.json", "/docs", problem_pages.PREFIX})
OPEN_PREFIXES = ("/auth/", "/webhooks/", problem_pages.PREFIX + "/")
# Paths that tell strangers something too; who sends credentials is somebody.
OPTIONAL_PATHS = frozenset({"/plans"})
# Paths that take an API key as well as an access token.
API_KEY_PATHS = frozenset({"/me/usage", "/me/limits", "/plans"})
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
LINK_PARAMETER = "token"

_api_key_header = APIKeyHeader(name="X-API-Key", scheme_name="api_key", auto_error=False)
_bearer_header = HTTPBearer(scheme_name="access_token", bearerFormat="JWT", auto_error=False)
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer_header)]
ApiKey = Annotated[str | None, Depends(_api_key_header)]


@dataclass(frozen=True, slots=True)
class Session:
    """A user with a session, and the unit of work in the name of the user."""

    user: User
    session_id: UUID
    unit_of_work: UnitOfWork

    @property
    def id(self) -> UUID:
        return self.user.id

    @property
    def name(self) -> str:
        """The actor of the audit log."""
        return f"user:{self.id}"


class KeyHolder(NamedTuple):
    """A user who authenticates by an API key."""

    id: UUID
    key: Key


def is_open(scope: Scope) -> bool:
    path: str = scope["path"]
    if path in OPTIONAL_PATHS:
        return not has_credentials(scope)
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


def has_credentials(scope: Scope) -> bool:
    return any(name in _CREDENTIALS for name, _ in scope["headers"])


def client_address(request: Request) -> str:
    return request.client.host if request.client else ""


async def find_user(database: Database, session_id: UUID) -> User | None:
    async with database.look_up() as connection:
        return await login_sessions.find_user(connection, session_id)


def session_of(user: User | None, session_id: UUID, unit_of_work: Callable[[str], UnitOfWork]) -> Session:
    """The session of this user. Raises NotAuthenticated where it is over, Suspended."""
    if user is None:
        raise NotAuthenticated("This session is over; log in.")
    if user.status is AccountStatus.SUSPENDED:
        raise Suspended("This account is suspended.")
    return Session(user, session_id, unit_of_work(f"user:{user.id}"))


class Authenticator:
    """Finds the caller of a request. `unit_of_work` gives that of an actor."""

    def __init__(
        self,
        database: Database,
        tokens: AccessTokens,
        *,
        key_prefix: str,
        peppers: Mapping[int, bytes],
        secret: str,
        unit_of_work: Callable[[str], UnitOfWork],
    ) -> None:
        self._database = database
        self._tokens = tokens
        self._key_prefix = key_prefix
        self._peppers = peppers
        self._secret = secret
        self._unit_of_work = unit_of_work
        self._guesses = Guesses()

    async def authenticate(self, request: Request) -> Session | KeyHolder | LinkHolder:
        """A KeyHolder for paths of `API_KEY_PATHS` only, a LinkHolder for the invoice of its link.

        Raises NotAuthenticated, Suspended, Throttled, Refused for a key that the proxy would refuse, and
        DatabaseUnavailable.
        """
        bearer = await _bearer_header(request)
        if bearer is None and (link := self._read_link(request)) is not None:
            return link
        if request.scope["path"] not in API_KEY_PATHS:
            return await self._session(bearer, client_ip=client_address(request))
        api_key = await _api_key_header(request)
        secret = api_key or (bearer.credentials if bearer else None)
        if secret is None:
            raise NotAuthenticated("Send your access token, or an API key, as `Authorization: Bearer`.")
        if api_key is not None or secret.startswith(f"{self._key_prefix}_live_"):
            return await self._key_holder(secret, client_ip=client_address(request))
        return await self._session(bearer, client_ip=client_address(request))

    def _read_link(self, request: Request) -> LinkHolder | None:
        token = request.query_params.get(LINK_PARAMETER)
        return None if token is None else invoice_links.holder(self._secret, request.scope["path"], token)

    async def _session(self, bearer: HTTPAuthorizationCredentials | None, *, client_ip: str) -> Session:
        if bearer is None:
            raise NotAuthenticated("Send your access token as `Authorization: Bearer ACCESS_TOKEN`.")
        session_id = self._tokens.read(bearer.credentials)
        if session_id is None:
            raise NotAuthenticated("The access token is not valid, or no longer; refresh it or log in.")
        user = await self._guesses.look_up(session_id, client_ip, lambda: find_user(self._database, session_id))
        return session_of(user, session_id, self._unit_of_work)

    async def _key_holder(self, secret: str, *, client_ip: str) -> KeyHolder:
        key = secret.encode("utf-8", "surrogateescape")
        if not keys.is_well_formed(self._key_prefix, key):
            raise Refused(Refusal.INVALID_KEY, "This is not a valid API key.")
        digests = keys.digests(key, self._peppers)
        principal = await self._guesses.look_up(
            digests[max(digests)], client_ip, lambda: self._find_principal(digests.values())
        )
        if principal is None:
            raise Refused(Refusal.INVALID_KEY, "This is not a valid API key.")
        keys.check(principal.key, now(), client_ip=client_ip)
        if principal.account.status is AccountStatus.SUSPENDED:
            raise Refused(Refusal.ACCOUNT_SUSPENDED, "This account is suspended.")
        return KeyHolder(principal.account.id, principal.key)

    async def _find_principal(self, digests: Iterable[bytes]) -> Principal | None:
        async with self._database.look_up() as connection:
            for digest in digests:
                found = await principals.find_principal(connection, digest)
                if found is not None:
                    return found
        return None
