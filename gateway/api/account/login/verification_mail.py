"""What is sent to prove that mail reaches somebody: noted here, made into a token and sent by the notices' worker."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.account.dependencies import Lifetimes
from gateway.clock import now
from gateway.ledger.accounts import one_time_tokens
from gateway.ledger.accounts.users import User
from gateway.ledger.db import notifications
from policies.access.tokens import Purpose


async def ask_to_verify(connection: AsyncConnection, user: User, lifetimes: Lifetimes) -> None:
    """To the user's present address."""
    await _send(connection, user, Purpose.VERIFY_EMAIL, lifetimes=lifetimes)


async def send_reset(connection: AsyncConnection, user: User, lifetimes: Lifetimes) -> None:
    await _send(connection, user, Purpose.RESET_PASSWORD, lifetimes=lifetimes)


async def _send(connection: AsyncConnection, user: User, purpose: Purpose, *, lifetimes: Lifetimes) -> None:
    lifetime = lifetimes.verify_email if purpose is Purpose.VERIFY_EMAIL else lifetimes.reset_password
    expires_at = now() + lifetime
    token_id = await one_time_tokens.issue(
        connection, user.id, purpose=purpose, email=user.email, expires_at=expires_at
    )
    # The id, not the token: that is made of it when the mail is, and stands nowhere.
    payload = {"token_id": str(token_id), "expires_at": expires_at.isoformat()}
    await notifications.enqueue(
        connection, user.id, kind=f"account.{purpose}", payload=payload, channels=(notifications.MAIL,)
    )
