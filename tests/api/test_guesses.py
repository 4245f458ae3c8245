"""Secrets that nobody has are looked up at the pace of their address; known ones whenever they come."""

from __future__ import annotations

import pytest

from gateway import paced_subjects
from gateway.api import guesses
from gateway.api.errors import Throttled
from gateway.api.guesses import Guesses
from gateway.ledger.db.session import DatabaseUnavailable
from policies.access.throttling import UNKNOWN_KEYS_FROM_ADDRESS

pytestmark = pytest.mark.unit
KNOWN = {b"known": "found"}
BURST = UNKNOWN_KEYS_FROM_ADDRESS.burst


class Looked:
    """Guesses over a table of one secret; counts what is asked of it."""

    def __init__(self) -> None:
        self.guesses = Guesses()
        self.queries = 0
        self.is_out = False

    async def up(self, digest: bytes, address: str = "192.0.2.1") -> str | None:
        return await self.guesses.look_up(digest, address, lambda: self._find(digest))

    async def _find(self, digest: bytes) -> str | None:
        self.queries += 1
        if self.is_out:
            raise DatabaseUnavailable("away")
        return KNOWN.get(digest)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    for module in (guesses, paced_subjects):
        monkeypatch.setattr(module, "monotonic_seconds", lambda: now[0])
    return now


async def test_unknown_secrets_of_an_address_are_paced() -> None:
    looked = Looked()
    for number in range(BURST):
        assert await looked.up(b"%d" % number) is None
    with pytest.raises(Throttled):
        await looked.up(b"one more")
    assert looked.queries == BURST
    assert await looked.up(b"one more", "192.0.2.2") is None


async def test_unknown_secret_is_not_looked_up_again_for_a_while(clock: list[float]) -> None:
    looked = Looked()
    assert [await looked.up(b"junk") for _ in range(5)] == [None] * 5
    assert looked.queries == 1
    clock[0] += guesses.UNKNOWN_SECONDS
    assert await looked.up(b"junk") is None
    assert looked.queries == 2


async def test_known_secret_is_looked_up_whenever_it_comes() -> None:
    looked = Looked()
    assert await looked.up(b"known") == "found"
    for number in range(BURST):
        await looked.up(b"%d" % number)
    for _ in range(BURST):
        assert await looked.up(b"known") == "found"
    assert looked.queries == 2 * BURST + 1


async def test_outage_costs_an_address_nothing() -> None:
    looked = Looked()
    looked.is_out = True
    for number in range(2 * BURST):
        with pytest.raises(DatabaseUnavailable):
            await looked.up(b"%d" % number)
    looked.is_out = False
    assert await looked.up(b"known") == "found"


async def test_a_bounded_number_of_secrets_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "MAX_SECRETS", 50)
    looked = Looked()
    for number in range(120):
        await looked.up(b"%d" % number)
    assert len(looked.guesses._unknown_until) == 50
