"""Who may read besides somebody signed in: a program, by an API key of the account."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends
from fastapi.security import APIKeyHeader

from gateway.api.account.collaborators import Bearer, ClientAddress, Held, signed_in
from gateway.api.errors import NotAuthenticated

_header = APIKeyHeader(name="X-API-Key", scheme_name="api_key", auto_error=False)
_ApiKey = Annotated[str | None, Depends(_header)]


async def _reader(held: Held, bearer: Bearer, api_key: _ApiKey, address: ClientAddress) -> UUID:
    sent = api_key or (bearer.credentials if bearer else None)
    if sent is None:
        raise NotAuthenticated("Send your access token, or an API key, as `Authorization: Bearer`.")
    if api_key is not None or held.key_reader.is_key(sent):
        return await held.key_reader.owner(sent, client_ip=address)
    return (await signed_in(held, bearer)).id


# The user whose data may be read: by a session, or by one of their keys.
Reader = Annotated[UUID, Depends(_reader)]
