"""Who is asking: somebody signed in, or a program by an API key of the account where it may read."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader

from gateway.api import problem_pages
from gateway.api.account.dependencies import Bearer, Dependencies, SignedIn, bearer_of, client_address, signed_in
from gateway.api.account.key_reader import KeyHolder
from gateway.api.errors import NotAuthenticated
from policies.model import Key

# What also takes an API key.
BY_KEY = frozenset({"/me/usage", "/me/limits"})

# Requests that name the caller in their body, or need none.
OPEN_PATHS = frozenset({"/plans", "/openapi.json", "/docs", problem_pages.PREFIX})
OPEN_PREFIXES = ("/auth/", "/webhooks/", problem_pages.PREFIX + "/")

_header = APIKeyHeader(name="X-API-Key", scheme_name="api_key", auto_error=False)
_ApiKey = Annotated[str | None, Depends(_header)]


async def caller_of(request: Request, dependencies: Dependencies) -> SignedIn | KeyHolder:
    """Who is signed in; of `BY_KEY` maybe just the user whose key it is.

    Raises NotAuthenticated, Suspended, Refused for a key, DatabaseUnavailable.
    """
    bearer = await bearer_of(request)
    if request.scope["path"] not in BY_KEY:
        return await signed_in(dependencies, bearer)
    api_key = await _header(request)
    sent = api_key or (bearer.credentials if bearer else None)
    if sent is None:
        raise NotAuthenticated("Send your access token, or an API key, as `Authorization: Bearer`.")
    if api_key is not None or dependencies.key_reader.is_key(sent):
        return await dependencies.key_reader.holder(sent, client_ip=client_address(request))
    return await signed_in(dependencies, bearer)


def is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


def _reader(request: Request, _bearer: Bearer, _api_key: _ApiKey) -> UUID:
    caller: SignedIn | KeyHolder = request.state.caller
    return caller.id


def _key_in_use(request: Request) -> Key | None:
    caller: SignedIn | KeyHolder = request.state.caller
    return caller.key if isinstance(caller, KeyHolder) else None


# The user whose data may be read: by a session, or by one of their keys.
Reader = Annotated[UUID, Depends(_reader)]

# The key by which they are read; None for a session.
KeyInUse = Annotated[Key | None, Depends(_key_in_use)]
