"""No sequence of what customers may do by themselves gives more credits than were paid for, or less.

Hypothesis looks for one: credits had beyond the money that the seller keeps are what it maximises.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings, target
from hypothesis import strategies as st

from gateway.ledger.db.session import Database
from tests.guarantees.simulation.self_service import PLANS, PRICES, CountingStripe, World, open_shop
from tests.payments.conftest import stripe_provider
from tests.payments.payment_stack import PaymentStack, payment_stack
from tests.support.sampling import IS_FULL, scaled

# `make fuzz EXAMPLES=20000` for the longest run.
SEQUENCES = int(os.environ.get("GATEWAY_TEST_EXAMPLES") or scaled(suite=12, full=2_000)) if IS_FULL else 12
# A change rounds credits down and cents by the second.
ROUNDING = 3

Action = tuple[Any, ...]
_WHICH, _SEATS = st.integers(0, 3), st.sampled_from([1, 1, 2, 5])
KINDS: tuple[str, ...] = (
    *(
        "register",
        "verify",
        "delete",
        "order",
        "pay",
        "buy",
        "confirm",
        "change",
        "cancel",
        "undo",
        "buy_pack",
        "spend",
    ),
    *("renew", "refund", "dispute", "decide", "repeat"),
)
# What an account has done before; the search begins where it can lose something.
BEGINNINGS: tuple[list[Action], ...] = (
    [],
    [("register", 0, 0), ("verify", 0)],
    [("register", 0, 0), ("verify", 0), ("register", 0, 1), ("verify", 1)],
    [("register", 0, 0), ("verify", 0), ("buy", 0, "gratis", 1), ("spend", 0, 1000)],
    [("register", 0, 0), ("buy", 0, "small", 1)],
    [("register", 0, 0), ("buy", 0, "small", 1), ("spend", 0, 1000)],
    [("register", 0, 0), ("buy", 0, "team", 2)],
    [("register", 0, 0), ("verify", 0), ("buy", 0, "trial", 1)],
)


# What may become of a payment, and the beginnings of who has paid.
AFTER_PAYMENT: tuple[str, ...] = (
    "change",
    "change",
    "renew",
    "refund",
    "dispute",
    "decide",
    "spend",
    "buy_pack",
    "cancel",
    "repeat",
)
PAID = BEGINNINGS[4:7]


@st.composite
def sequences(draw: st.DrawFn) -> list[Action]:
    """Of a few kinds of action on a few plans and accounts, so that what belongs together comes together, or of all
    that may become of the payments of one.
    """
    if draw(st.booleans()):
        kinds, account, beginnings = AFTER_PAYMENT, st.just(0), PAID
        plans = st.sampled_from(("small", "large", "team"))
    else:
        kinds = tuple(draw(st.lists(st.sampled_from(KINDS), min_size=2, max_size=5, unique=True)))
        account, beginnings = st.integers(0, draw(st.integers(0, 2))), BEGINNINGS
        plans = st.sampled_from(draw(st.lists(st.sampled_from(sorted(PLANS)), min_size=1, max_size=2, unique=True)))
    given = {
        "register": (st.integers(0, 1), st.integers(0, 2)),
        "order": (account, plans, _SEATS),
        "buy": (account, plans, _SEATS),
        "pay": (account, _WHICH),
        "confirm": (account, _WHICH),
        "change": (account, plans, st.one_of(st.none(), _SEATS), st.booleans()),
        "cancel": (account, st.booleans()),
        "spend": (account, st.sampled_from([1, 99, 1000])),
        "renew": (account, st.booleans()),
        "refund": (account, _WHICH, st.sampled_from([1, 50, 100])),
        "dispute": (account, _WHICH),
        "decide": (account, _WHICH, st.booleans()),
        "repeat": (account, st.integers(0, 40)),
    }
    action = st.one_of([st.tuples(st.just(kind), *given.get(kind, (account,))) for kind in kinds])
    either = st.one_of(action, action, st.tuples(st.just("at_once"), action, action))
    return [*draw(st.sampled_from(beginnings)), *draw(st.lists(either, min_size=1, max_size=8))]


@pytest.fixture
async def shop(own_database_url: str) -> AsyncIterator[PaymentStack]:
    database = Database(own_database_url)
    provider = stripe_provider(CountingStripe(PRICES))
    async with payment_stack(database, provider) as stack:
        yield await open_shop(stack)
    await provider.close()
    await database.close()


DOWNGRADED: list[Action] = [("register", 0, 0), ("buy", 0, "large", 1), ("change", 0, "small", None, False)]
KNOWN: tuple[list[Action], ...] = (
    # Delete and register again; as another spelling of the address too.
    [
        *(*BEGINNINGS[3], ("delete", 0), ("register", 0, 0), ("verify", 1), ("buy", 1, "gratis", 1)),
        *(("register", 0, 1), ("verify", 2), ("buy", 2, "gratis", 1)),
    ],
    # One free plan for two accounts, at once.
    [*BEGINNINGS[2], ("at_once", ("buy", 0, "gratis", 1), ("buy", 1, "gratis", 1))],
    # One trial for two checkouts that are open.
    [*BEGINNINGS[2], ("order", 0, "trial", 1), ("order", 1, "trial", 1), ("pay", 0, 0), ("pay", 1, 0)],
    # Up, spend, down, up and down again, renew.
    [
        *(*BEGINNINGS[4], ("change", 0, "large", None, False), ("spend", 0, 1000), ("change", 0, "small", None, False)),
        *(("change", 0, "large", None, False), ("change", 0, "small", None, False), ("renew", 0, True)),
    ],
    # More seats, spend, fewer seats.
    [*BEGINNINGS[6], ("change", 0, "team", 5, False), ("spend", 0, 1000), ("change", 0, "team", 1, False)],
    # Spend, take the money back, begin anew.
    [*BEGINNINGS[5], ("dispute", 0, 0), ("delete", 0), ("register", 0, 0), ("verify", 1), ("buy", 1, "gratis", 1)],
    [*BEGINNINGS[4], ("change", 0, "large", None, False), ("spend", 0, 1000), ("refund", 0, 1, 100)],
    # A renewal and a larger plan before the gateway knows of either; the larger one is disputed, or the renewal.
    [*BEGINNINGS[4], ("at_once", ("change", 0, "large", 1, False), ("renew", 0, True)), ("dispute", 0, 2)],
    [*BEGINNINGS[4], ("at_once", ("change", 0, "large", 1, False), ("renew", 0, True)), ("dispute", 0, 1)],
    [*BEGINNINGS[6], ("at_once", ("change", 0, "team", 5, False), ("renew", 0, True)), ("dispute", 0, 2)],
    # A smaller plan at once, whose price the provider keeps for the customer; then all is disputed, or refunded.
    [*DOWNGRADED, ("dispute", 0, 0)],
    [*DOWNGRADED, ("refund", 0, 0, 50), ("refund", 0, 0, 100)],
    [*DOWNGRADED, ("renew", 0, True), ("dispute", 0, 0), ("decide", 0, 0, True)],
    [*DOWNGRADED, ("spend", 0, 1000), ("change", 0, "large", None, False), ("dispute", 0, 0)],
    [*BEGINNINGS[4], ("change", 0, "large", 1, False), ("change", 0, "small", 1, False), ("refund", 0, 1, 100)],
    [*BEGINNINGS[6], ("change", 0, "team", 1, False), ("dispute", 0, 0)],
    # The same in the other order.
    [*BEGINNINGS[4], ("change", 0, "large", 1, False), ("dispute", 0, 1), ("change", 0, "small", 1, False)],
    [*DOWNGRADED[:2], ("refund", 0, 0, 50), ("change", 0, "small", 1, False), ("refund", 0, 0, 100)],
    [*BEGINNINGS[6], ("dispute", 0, 0), ("change", 0, "team", 1, False), ("decide", 0, 0, True)],
    # What a dispute took comes back; the credits of the larger plan, which is given up, are spent meanwhile.
    [
        *(*BEGINNINGS[4], ("change", 0, "large", 1, False), ("dispute", 0, 0), ("spend", 0, 1000)),
        *(("decide", 0, 0, True), ("change", 0, "small", 1, False)),
    ],
    # A renewal that fails, after its credits are spent.
    [*BEGINNINGS[5], ("renew", 0, False), ("spend", 0, 1000), ("cancel", 0, True)],
)


def known(test: Callable[..., Any]) -> Callable[..., Any]:
    for sequence in KNOWN:
        test = example(sequence=sequence)(test)
    return test


@known
@settings(
    max_examples=SEQUENCES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(sequence=sequences())
async def test_no_sequence_gives_more_or_less_credits_than_were_paid_for(
    shop: PaymentStack, sequence: list[tuple[Any, ...]]
) -> None:
    fake_stripe = CountingStripe(PRICES)
    # The provider of the shop speaks to the Stripe of this sequence.
    provider = stripe_provider(fake_stripe)
    shop.provider._http._client_async = provider._http._client_async  # type: ignore[attr-defined] # of the adapter
    world = World(shop, fake_stripe)
    for action in sequence:
        await world.act(action)
        event(str(action[0]))
    surplus, rounding = await world.surplus(), ROUNDING * (1 + world.changes)
    target(float(surplus), label="credits beyond those paid for")
    assert surplus <= rounding, sequence
    assert await world.lost() <= rounding, sequence
    assert await world.escaped_debt() == 0, sequence
    assert await world.surplus() <= rounding, sequence
