"""Redeems the code of a session that was handed over."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from gateway.api.account.dependencies import AccountDependencies
from gateway.api.account.login.throttling import record_failure
from gateway.api.errors import NotAuthenticated
from gateway.api.hand_over import SESSION_LIFETIME, HandOverCodes
from gateway.clock import now
from gateway.ledger.accounts import login_sessions
from policies.access import tokens
from policies.access.tokens import REFRESH_BYTES, Verdict
from policies.model import AccountStatus


class EnteredSession(NamedTuple):
    session_id: UUID
    return_url: str | None


async def redeem(dependencies: AccountDependencies, code: str, *, address: str) -> EnteredSession:
    """Begins the session, once. Raises NotAuthenticated for a code that is used, too old or forged."""
    handed = HandOverCodes(dependencies.peppers).read(code)
    session_id = None if handed is None else await _begin(dependencies, tokens.digest(handed.refresh_token))
    if handed is None or session_id is None:
        record_failure("one_time_token", address=address)
        raise NotAuthenticated("This link is not valid, was used already or is too old; ask for another.")
    return EnteredSession(session_id, handed.return_url)


async def _begin(dependencies: AccountDependencies, used: bytes) -> UUID | None:
    async with dependencies.database.transaction() as connection:
        found = await login_sessions.get_refresh_for_update(connection, used)
        if found is None or tokens.judge(found.state, now()) is not Verdict.GOOD:
            return None
        if found.user_status is not AccountStatus.ACTIVE:
            return None
        # The next token is told to nobody: the session lives in the cookie of the portal alone.
        unknown = tokens.refresh_token(dependencies.entropy(REFRESH_BYTES))
        expires_at = now() + SESSION_LIFETIME
        await login_sessions.rotate(
            connection, found.session_id, used_hash=used, next_hash=tokens.digest(unknown), expires_at=expires_at
        )
        return found.session_id
