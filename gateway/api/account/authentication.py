"""Who calls the account API: a user with a session, or a program by an API key where it may read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from gateway.ledger.accounts import key_lookup, login_sessions
from gateway.ledger.accounts.key_lookup import ImportedKeys
from gateway.ledger.accounts.stored_digests import API_KEYS, StoredDigests
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
_KEY_FIELDS = keys.KEY_FIELDS - {b"authorization"}
LINK_PARAMETER = "token"

_api_key_header = APIKeyHeader(
    name="X-API-Key",
    scheme_name="api_key",
    description="Also as `x-goog-api-key`, `api-key` or `Authorization: Bearer`.",
    auto_error=False,
)
get_bearer = HTTPBearer(scheme_name="access_token", bearerFormat="JWT", auto_error=False)
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(get_bearer)]
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
    return any(name in keys.KEY_FIELDS for name, _ in scope["headers"])


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
        self._own_prefix = f"{key_prefix}_live_".encode()
        self._stored_keys = StoredDigests(database, API_KEYS)
        self._imported_keys = ImportedKeys(database, own_prefix=self._own_prefix)
        self._peppers = peppers
        self._secret = secret
        self._unit_of_work = unit_of_work
        self._guesses = Guesses()

    async def authenticate(self, request: Request) -> Session | KeyHolder | LinkHolder:
        """A KeyHolder for paths of `API_KEY_PATHS` only, a LinkHolder for the invoice of its link.

        Raises NotAuthenticated, Suspended, Throttled, Refused for a key that the proxy would refuse, and
        DatabaseUnavailable.
        """
        bearer = await get_bearer(request)
        if bearer is None and (link := self._read_link(request)) is not None:
            return link
        if request.scope["path"] not in API_KEY_PATHS:
            return await self._session(bearer, client_ip=client_address(request))
        client_ip = client_address(request)
        key = self._sent_key(request.scope, bearer)
        if key is not None:
            return await self._key_holder(key, client_ip=client_ip)
        if bearer is None:
            raise NotAuthenticated("Send your access token, or an API key, as `Authorization: Bearer`.")
        if await self._is_imported(bearer):
            return await self._key_holder(_as_sent(bearer), client_ip=client_ip)
        return await self._session(bearer, client_ip=client_ip)

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

    def _sent_key(self, scope: Scope, bearer: HTTPAuthorizationCredentials | None) -> bytes | None:
        """The one key of the request: one of the gateway's form in any field, else another in the fields for keys.

        Raises Refused where two differ.
        """
        sent = {value for name, value in scope["headers"] if name in _KEY_FIELDS and value}
        claimed = {key for key in (*sent, *_bearers(bearer)) if key.startswith(self._own_prefix)}
        found = claimed or sent
        if len(found) > 1:
            raise Refused(Refusal.BAD_REQUEST, "The request carries different API keys; send one.")
        return next(iter(found), None)

    async def _is_imported(self, bearer: HTTPAuthorizationCredentials) -> bool:
        """Whether it begins as imported keys do, and is no access token."""
        return self._tokens.read(bearer.credentials) is None and await self._imported_keys.may_include(_as_sent(bearer))

    async def _key_holder(self, key: bytes, *, client_ip: str) -> KeyHolder:
        if not keys.is_well_formed(self._key_prefix, key) and not await self._imported_keys.may_include(key):
            raise Refused(Refusal.INVALID_KEY, "This is not a valid API key.")
        digest = keys.digest(key, self._peppers[max(self._peppers)])
        principal = await self._guesses.look_up(digest, client_ip, lambda: self._find_principal(key))
        if principal is None:
            raise Refused(Refusal.INVALID_KEY, "This is not a valid API key.")
        keys.check(principal.key, now(), client_ip=client_ip)
        if principal.account.status is AccountStatus.SUSPENDED:
            raise Refused(Refusal.ACCOUNT_SUSPENDED, "This account is suspended.")
        return KeyHolder(principal.account.id, principal.key)

    async def _find_principal(self, key: bytes) -> Principal | None:
        if not await self._stored_keys.has_any(keys.lookup_digests(self._key_prefix, key, self._peppers)):
            return None
        async with self._database.look_up() as connection:
            found = await key_lookup.find_holder(connection, key, prefix=self._key_prefix, peppers=self._peppers)
        if found is None:
            return None
        await key_lookup.rehash(self._database, key, stored_digest=found.stored_digest, peppers=self._peppers)
        return found.principal


def _bearers(bearer: HTTPAuthorizationCredentials | None) -> tuple[bytes, ...]:
    return () if bearer is None else (_as_sent(bearer),)


def _as_sent(bearer: HTTPAuthorizationCredentials) -> bytes:
    return bearer.credentials.strip().encode("latin-1")  # which header fields were decoded by
