"""A pepper is known again, and no other one takes its place."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import api_keys, peppers
from gateway.ledger.accounts.peppers import WrongPepper
from policies.access.keys import ENTROPY_BYTES, compose
from tests.ledger.make import a_user

ONE, TWO = b"1" * 32, b"2" * 32


async def test_pepper_is_checked_against_the_one_that_came_first(connection: AsyncConnection) -> None:
    await peppers.check(connection, {1: ONE})
    await peppers.check(connection, {1: ONE})
    await peppers.check(connection, {1: ONE, 2: TWO})
    await peppers.check(connection, {2: TWO})
    with pytest.raises(WrongPepper, match="version 1 is not the pepper"):
        await peppers.check(connection, {1: TWO})
    with pytest.raises(WrongPepper, match="version 2"):
        await peppers.check(connection, {1: ONE, 2: ONE})


async def test_version_that_keys_need_is_missed(connection: AsyncConnection) -> None:
    user, new = await a_user(connection), compose("gw", b"x" * ENTROPY_BYTES)
    await api_keys.create(connection, user.id, fingerprint=api_keys.fingerprint(new, {1: ONE}))
    assert await peppers.list_missing(connection, {1: ONE, 2: TWO}) == ()
    assert await peppers.list_missing(connection, {2: TWO}) == (1,)
