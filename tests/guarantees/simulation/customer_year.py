"""Actions of customers, their payment provider and time, applied to the product and to the second bookkeeping."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import users
from gateway.ledger.catalogue.provider_prices import PlanPrice
from gateway.ledger.credits import grants
from gateway.ledger.db.errors import AlreadyExists
from gateway.ledger.invoicing import plan_changes
from gateway.ledger.payments import provider_subscriptions
from gateway.ledger.subscriptions import lifecycle, subscriptions
from gateway.ledger.subscriptions.subscriptions import IllegalTransition, StoredSubscription
from policies.model import SubscriptionStatus
from tests.guarantees.simulation.bookkeeping import FOREVER, LIVING, Account, Contract, Gift, Offer
from tests.policies.billing.calendar_oracle import boundaries

ACTOR = "test:year"
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia")

OFFERS = (
    Offer("free", 10, price=0),
    Offer("basic", 100),
    Offer("hoard", 80, rolls_over=True),
    Offer("weekly", 30, ("week", 1)),
    Offer("ten-days", 25, ("day", 10), rolls_over=True),
    Offer("quarter", 400, ("month", 3)),
    Offer("yearly", 5000, ("year", 1)),
    Offer("seats", 20, per_seat=True),
    Offer("access", 0),
)
SOLD_BY_PROVIDER = OFFERS[1:4]


@dataclass
class Sale:
    """A subscription as the payment provider has it."""

    offer: Offer
    start: datetime
    end: datetime
    status: str = "active"
    is_ending: bool = False
    quantity: int = 1
    retries_at: datetime | None = None


@dataclass
class Life:
    """One account: its random numbers, its books, and its provider's objects by subscription."""

    account: Account
    random: Random
    sales: dict[UUID, Sale] = field(default_factory=dict)
    spent: int = 0  # admitted and not yet in PostgreSQL


Deed = Callable[[AsyncConnection, Life, datetime], Awaitable[None]]


async def act(connection: AsyncConnection, life: Life, now: datetime) -> None:
    """Does something at random, mostly something possible."""
    (deed,) = life.random.choices([deed for deed, _ in DEEDS], [weight for _, weight in DEEDS])
    await deed(connection, life, now)


async def subscribe(connection: AsyncConnection, life: Life, now: datetime) -> None:
    account, offer, seats = life.account, life.random.choice(OFFERS), life.random.randint(1, 3)
    if account.current is not None:
        with pytest.raises(AlreadyExists, match="uq_subscriptions_current"):
            await lifecycle.start(connection, account.id, plan_id=offer.id, now=now)
        return
    is_own_doing = life.random.random() < 0.5
    running = _free_period(account, now) if is_own_doing and offer.price == 0 else None
    begun = await lifecycle.start(
        connection,
        account.id,
        plan_id=offer.id,
        now=now,
        actor=ACTOR,
        quantity=seats,
        is_own_doing=is_own_doing,
    )
    contract = Contract(begun.id, offer, seats, "active", now, now, now, now)
    account.contracts.append(contract)
    if running is None:
        account.period_from(contract, now)
    else:
        contract.start, contract.end, contract.anchor = running.start, running.end, running.anchor
        account.period = (contract.id, contract.start, contract.end)


async def start_trial(connection: AsyncConnection, life: Life, now: datetime) -> None:
    account, offer, days = life.account, life.random.choice(OFFERS), life.random.randint(3, 20)

    async def start() -> StoredSubscription:
        return await lifecycle.start_trial(connection, account.id, plan_id=offer.id, days=days, now=now, actor=ACTOR)

    if account.current is not None or account.had_trial:
        with pytest.raises(AlreadyExists):
            await start()
        return
    begun = await start()
    account.had_trial = True
    end = boundaries(now, "day", days, zone=account.zone, until=now)[-1]
    contract = Contract(begun.id, offer, 1, "trialing", now, end, now, now, is_trial_known=True)
    account.contracts.append(contract)
    account.open_period(contract)


async def buy(connection: AsyncConnection, life: Life, now: datetime) -> None:
    account, random = life.account, life.random
    source = random.choice(("purchase", "purchase", "promo", "admin"))
    ends = random.choice((None, now + timedelta(days=random.randint(1, 90))))
    gift = Gift(random.randint(1, 300), 0, source, now, ends or FOREVER)
    given = await grants.grant(
        connection,
        account.id,
        amount=gift.amount,
        source=source,
        reason="x",
        actor=ACTOR,
        effective_at=now,
        expires_at=ends,
    )
    account.give(gift)
    gift.id = given.grant_id


async def schedule(connection: AsyncConnection, life: Life, now: datetime) -> None:
    random = life.random
    begins = now + timedelta(hours=random.randint(1, 900))
    ends = random.choice((None, begins + timedelta(hours=random.randint(1, 900))))
    gift = Gift(random.randint(1, 200), 0, "purchase", begins, ends or FOREVER, is_scheduled=True)
    planned = await grants.schedule(
        connection,
        life.account.id,
        amount=gift.amount,
        source="purchase",
        reason="x",
        actor=ACTOR,
        effective_at=begins,
        expires_at=ends,
    )
    gift.id = planned.id
    life.account.gifts.append(gift)


async def refund(connection: AsyncConnection, life: Life, now: datetime) -> None:  # noqa: ARG001 - the shape of deeds
    bought = [gift for gift in life.account.gifts if gift.id is not None and gift.source == "purchase"]
    if bought:
        gift, amount = life.random.choice(bought), life.random.randint(1, 250)
        assert gift.id is not None
        await grants.claw_back(connection, gift.id, amount=amount, reason="refund", actor=ACTOR)
        life.account.claw_back(gift, amount)


async def correct(connection: AsyncConnection, life: Life, now: datetime) -> None:  # noqa: ARG001 - the shape of deeds
    amount = life.random.choice((-1, 1)) * life.random.randint(1, 60)
    await grants.adjust(connection, life.account.id, amount=amount, reason="x", actor=ACTOR)
    if amount > 0:
        life.account.give(Gift(amount, 0, "admin", datetime.min.replace(tzinfo=UTC), FOREVER))
    else:
        life.account.take(-amount)


async def change(connection: AsyncConnection, life: Life, now: datetime) -> None:
    account, random = life.account, life.random
    contract = _some(life)
    if contract is None or contract.provider != "manual":
        return
    offer = random.choice((contract.offer, *OFFERS))
    seats, waits = random.choice((None, 1, 2, 5)), random.random() < 0.3
    plan_id = None if offer is contract.offer else offer.id

    async def ask() -> plan_changes.SubscriptionChange:
        return await plan_changes.change(
            connection, contract.id, now=now, actor=ACTOR, plan_id=plan_id, quantity=seats, at_period_end=waits
        )

    if contract.status not in ("trialing", "active") or contract.is_ending:
        with pytest.raises(IllegalTransition):
            await ask()
        return
    done = await ask()
    quantity = contract.quantity if seats is None else seats
    scheduled = _scheduled(contract, seats, waits) if plan_id is None else (None, None)
    if waits:
        is_as_now = (offer, quantity) == (contract.offer, contract.quantity)
        asked = (None, None) if is_as_now else (offer, quantity)
        contract.next_offer, contract.next_quantity = scheduled if scheduled[0] else asked
        return
    before, balance = contract.gives, account.balance
    is_same = contract.offer.interval == offer.interval or contract.status == "trialing"
    contract.offer, contract.quantity = offer, quantity
    contract.next_offer, contract.next_quantity = scheduled
    account.prorate(contract, before=before, after=contract.gives if is_same else 0, now=now)
    if not is_same:
        account.period_from(contract, now)
    assert done.credits == account.balance - balance


def _scheduled(contract: Contract, seats: int | None, waits: bool) -> tuple[Offer | None, int | None]:
    """The plan that comes with the next period, and its seats, after a change of seats alone."""
    offer = contract.next_offer
    if offer is None or offer is contract.offer:
        return None, None
    if seats is None or (not waits and contract.next_quantity != contract.quantity):
        return offer, contract.next_quantity
    return offer, seats if offer.per_seat else 1


async def cancel(connection: AsyncConnection, life: Life, now: datetime) -> None:
    contract, waits = _some(life), life.random.random() < 0.5
    if contract is None or contract.provider != "manual":
        return
    if contract.status not in LIVING:
        with pytest.raises(IllegalTransition):
            await lifecycle.cancel(connection, contract.id, now=now, at_period_end=waits)
        return
    await lifecycle.cancel(connection, contract.id, now=now, at_period_end=waits)
    contract.next_offer = contract.next_quantity = None
    contract.is_ending = waits
    if not waits:
        life.account.end(contract, "canceled")


async def keep(connection: AsyncConnection, life: Life, now: datetime) -> None:  # noqa: ARG001 - the shape of deeds
    contract = _some(life)
    if contract is None or contract.provider != "manual":
        return
    if not contract.is_ending:
        with pytest.raises(IllegalTransition):
            await lifecycle.undo_cancel(connection, contract.id)
        return
    await lifecycle.undo_cancel(connection, contract.id)
    contract.is_ending = False


async def pause_or_resume(connection: AsyncConnection, life: Life, now: datetime) -> None:
    contract = _some(life)
    if contract is None or contract.provider != "manual":
        return
    if contract.status == "paused" and contract.is_ending and now >= contract.end:
        with pytest.raises(IllegalTransition):
            await lifecycle.resume(connection, contract.id, now=now, actor=ACTOR)
        return
    if contract.status == "paused":
        await lifecycle.resume(connection, contract.id, now=now, actor=ACTOR)
        contract.status = "active"
        if now >= contract.end:
            contract.offer = contract.next_offer or contract.offer
            life.account.period_from(contract, now)
        return
    if contract.status != "active" or contract.is_ending:
        with pytest.raises(IllegalTransition):
            await lifecycle.pause(connection, contract.id)
        return
    await lifecycle.pause(connection, contract.id)
    contract.status = "paused"


async def change_time_zone(connection: AsyncConnection, life: Life, now: datetime) -> None:  # noqa: ARG001 - as above
    zone = life.random.choice(ZONES)
    await users.patch(connection, life.account.id, time_zone=zone)
    life.account.zone = ZoneInfo(zone)


async def check_out(connection: AsyncConnection, life: Life, now: datetime) -> None:
    """Orders at the provider; most of the time it is paid for."""
    account, offer = life.account, life.random.choice(SOLD_BY_PROVIDER)
    if account.current is not None and account.current.provider != "manual":
        return
    found = await lifecycle.await_payment(connection, account.id, plan_id=offer.id, provider="stripe", now=now)
    contract = next((each for each in account.contracts if each.id == found.id), None)
    if contract is None:
        contract = Contract(found.id, offer, 1, "incomplete", now, now, now, now, provider="stripe")
        account.contracts.append(contract)
    contract.made = now
    if life.random.random() < 0.7:
        word, count = offer.interval
        sale = Sale(offer, now, boundaries(now, word, count, zone=ZoneInfo("UTC"), until=now)[-1])
        life.sales[found.id] = sale
        await tell(connection, life, contract, sale=sale, now=now)


def provider_changes(life: Life, now: datetime) -> list[Contract]:
    """The provider's own clock: what has been renewed, has failed or recovered, or was changed in its portal."""
    found = []
    for contract in life.account.contracts:
        sale = life.sales.get(contract.id)
        if sale is not None and sale.status != "canceled" and _goes_on(life.random, sale, now):
            found.append(contract)
    return found


async def provide(connection: AsyncConnection, life: Life, told: list[Contract], *, now: datetime) -> None:
    """Delivers webhooks, some more than once."""
    for contract in told:
        for _ in range(life.random.choice((1, 1, 2, 3))):
            await tell(connection, life, contract, sale=life.sales[contract.id], now=now)


def _goes_on(random: Random, sale: Sale, now: datetime) -> bool:
    """Whether there is news of the sale."""
    word, count = sale.offer.interval
    if sale.retries_at is not None and now >= sale.retries_at:
        sale.status, sale.retries_at = random.choice(("active", "active", "canceled")), None
        return True
    if now >= sale.end:
        if sale.is_ending:
            sale.status = "canceled"
            return True
        known = boundaries(sale.start, word, count, zone=ZoneInfo("UTC"), until=now)
        sale.start, sale.end = known[-2], known[-1]
        if sale.status == "active" and random.random() < 0.2:
            sale.status, sale.retries_at = "past_due", now + timedelta(hours=random.randint(10, 150))
        return True
    if random.random() < 0.02:
        sale.is_ending = not sale.is_ending
        return True
    if sale.status == "active" and random.random() < 0.02:
        sale.offer = random.choice([each for each in SOLD_BY_PROVIDER if each.interval == sale.offer.interval])
        return True
    return random.random() < 0.02


async def tell(connection: AsyncConnection, life: Life, contract: Contract, *, sale: Sale, now: datetime) -> None:
    account = life.account
    if life.random.random() < 0.1:  # an answer that was fetched earlier and comes late
        synced = await subscriptions.get(connection, contract.id)
        if synced is not None and synced.provider_synced_at is not None:
            stale = Sale(OFFERS[1], sale.start - timedelta(days=9), sale.start, "canceled")
            await _sync(connection, contract, stale, now=synced.provider_synced_at - timedelta(seconds=1))
    await _sync(connection, contract, sale, now=now)
    if contract.is_superseded:
        return
    before, is_over = contract.gives, contract.is_unpaid and sale.status == "past_due"
    status = contract.status if is_over else sale.status
    if status in LIVING:
        account.supersede_others(contract)
    contract.offer, contract.start, contract.end, contract.anchor = sale.offer, sale.start, sale.end, sale.start
    contract.status, contract.is_ending = status, sale.is_ending and status in LIVING
    contract.unpaid_since = (contract.unpaid_since or now) if sale.status == "past_due" else None
    if status == "active" and not account.open_period(contract) and contract.gives != before:
        account.prorate(contract, before=before, after=contract.gives, now=now)


async def _sync(connection: AsyncConnection, contract: Contract, sale: Sale, *, now: datetime) -> None:
    await provider_subscriptions.sync_from_provider(
        connection,
        contract.id,
        status=SubscriptionStatus(sale.status),
        period_start=sale.start,
        period_end=sale.end,
        cancel_at_period_end=sale.is_ending,
        quantity=sale.quantity,
        price=PlanPrice(sale.offer.id),
        provider_subscription_id=f"sub_{contract.id.hex}",
        now=now,
        actor="provider:stripe",
    )


def _free_period(account: Account, now: datetime) -> Contract | None:
    ended = [
        each
        for each in account.contracts
        if each.status in ("canceled", "expired") and each.offer.price == 0 and each.end > now
    ]
    return max(ended, key=lambda each: each.end, default=None)


def _some(life: Life) -> Contract | None:
    """The current one most of the time."""
    ended = [each for each in life.account.contracts if each.status != "incomplete"]
    return life.account.current or (life.random.choice(ended) if ended else None)


DEEDS: tuple[tuple[Deed, int], ...] = (
    (subscribe, 25),
    (change, 20),
    (buy, 15),
    (cancel, 8),
    (keep, 6),
    (pause_or_resume, 8),
    (schedule, 5),
    (refund, 5),
    (correct, 4),
    (start_trial, 4),
    (check_out, 12),
    (change_time_zone, 2),
)
