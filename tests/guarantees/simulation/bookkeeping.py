"""A second bookkeeping of credits and subscriptions in plain Python, event by event."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import floor
from uuid import UUID
from zoneinfo import ZoneInfo

from tests.policies.billing.calendar_oracle import boundaries

GRACE = timedelta(days=3)
FOREVER = datetime.max.replace(tzinfo=UTC)
LIVING = ("trialing", "active", "past_due", "paused")
PRIORITIES = {"plan": 10, "trial": 10, "promo": 20, "admin": 30, "purchase": 50}


@dataclass(frozen=True)
class Offer:
    """A plan. `interval` is (word, count)."""

    id: str
    credits: int
    interval: tuple[str, int] = ("month", 1)
    price: int = 10
    rolls_over: bool = False
    per_seat: bool = False

    def gives(self, quantity: int) -> int:
        return self.credits * (quantity if self.per_seat else 1)


@dataclass(eq=False)
class Gift:
    amount: int
    remaining: int
    source: str
    begins: datetime
    ends: datetime
    id: UUID | None = None
    of: UUID | None = None
    is_scheduled: bool = False
    clawed: int = 0

    @property
    def rank(self) -> tuple[int, datetime]:
        return PRIORITIES[self.source], self.ends


@dataclass(eq=False)
class Contract:
    """The expected state of a subscription."""

    id: UUID
    offer: Offer
    quantity: int
    status: str
    start: datetime
    end: datetime
    anchor: datetime
    made: datetime
    provider: str = "manual"
    is_ending: bool = False
    next_offer: Offer | None = None
    next_quantity: int | None = None
    unpaid_since: datetime | None = None
    is_trial_known: bool = False
    is_superseded: bool = False
    granted: set[datetime] = field(default_factory=set)

    @property
    def gives(self) -> int:
        return self.offer.gives(self.quantity)

    @property
    def is_unpaid(self) -> bool:
        """Whether it ended since nobody paid; the provider may still charge for it."""
        return self.status == "expired" and self.unpaid_since is not None and not self.is_superseded


@dataclass(eq=False)
class Account:
    """One user. Every list is in order of creation, which is the order of ids."""

    id: UUID
    zone: ZoneInfo
    balance: int = 0
    used: int = 0
    purchased: int = 0
    expired: int = 0
    used_in_period: int = 0
    shortfall: int = 0
    period: tuple[UUID, datetime, datetime] | None = None
    gifts: list[Gift] = field(default_factory=list)
    contracts: list[Contract] = field(default_factory=list)
    had_trial: bool = False

    @property
    def current(self) -> Contract | None:
        return next((contract for contract in self.contracts if contract.status in LIVING), None)

    def give(self, gift: Gift) -> None:
        debt = max(0, -self.balance)
        gift.remaining = max(0, gift.amount - debt)
        gift.is_scheduled = False
        self.balance += gift.amount
        self.purchased += gift.amount if gift.source == "purchase" else 0
        if gift not in self.gifts:
            self.gifts.append(gift)

    def take(self, amount: int) -> None:
        """Spends gifts in the order of burn-down; the rest becomes debt."""
        self.balance -= amount
        for gift in sorted(self.gifts, key=lambda gift: gift.rank):
            part = min(gift.remaining, amount)
            gift.remaining -= part
            amount -= part

    def spend(self, amount: int) -> None:
        self.take(amount)
        self.used += amount
        self.used_in_period += amount

    def claw_back(self, gift: Gift, amount: int) -> None:
        amount = min(amount, gift.amount - gift.clawed)
        if gift.is_scheduled:
            gift.amount -= amount
            gift.is_scheduled = gift.amount > 0
            return
        if amount <= 0:
            return
        part = min(gift.remaining, amount)
        gift.remaining -= part
        gift.clawed += amount
        self.purchased -= amount if gift.source == "purchase" else 0
        self.balance -= part
        self.take(amount - part)

    def settle(self, now: datetime) -> None:
        for gift in sorted(self.gifts, key=lambda gift: gift.begins):
            if gift.is_scheduled and gift.begins <= now:
                self.give(gift)
        for gift in self.gifts:
            if gift.ends <= now and not self._waits(gift, now):
                self.balance -= gift.remaining
                self.expired += gift.remaining
                gift.clawed += gift.remaining
                gift.remaining = 0

    def _waits(self, gift: Gift, now: datetime) -> bool:
        """Whether a provider is still to tell of the period after that of the gift."""
        contract = next((each for each in self.contracts if each.id == gift.of), None)
        if contract is None or contract.provider == "manual" or contract.is_ending:
            return False
        return contract.status in ("trialing", "active") and contract.end <= gift.ends and now < gift.ends + GRACE

    def open_period(self, contract: Contract) -> bool:
        if contract.start in contract.granted or (self.period and self.period[:2] == (contract.id, contract.start)):
            return False
        self.period = (contract.id, contract.start, contract.end)
        self.used_in_period = self.shortfall = 0
        if contract.gives:
            is_trial = contract.status == "trialing"
            ends = FOREVER if contract.offer.rolls_over and not is_trial else contract.end
            source = "trial" if is_trial else "plan"
            self.give(Gift(contract.gives, 0, source, contract.start, ends, of=contract.id))
            contract.granted.add(contract.start)
        return True

    def prorate(self, contract: Contract, *, before: int, after: int, now: datetime) -> None:
        left = Fraction(round((contract.end - now) / timedelta(microseconds=1))) / Fraction(
            round((contract.end - contract.start) / timedelta(microseconds=1))
        )
        change = floor((after - before) * max(Fraction(0), min(Fraction(1), left)))
        if change > 0:
            owed = min(self.shortfall, change)
            self.shortfall -= owed
            if change > owed:
                is_trial = contract.status == "trialing"
                ends = FOREVER if contract.offer.rolls_over and not is_trial else contract.end
                source = "trial" if is_trial else "plan"
                self.give(Gift(change - owed, 0, source, contract.start, ends, of=contract.id))
        elif change < 0:
            self.shortfall += self._take_back(contract, -change)

    def _take_back(self, contract: Contract, wanted: int) -> int:
        """Takes from the period's gifts, the newest first, used ones too but of a trial. Gives what they lack."""
        for gift in reversed(self.gifts):
            if gift.of == contract.id and gift.begins >= contract.start and not gift.is_scheduled:
                kept = max(gift.remaining, gift.amount - gift.clawed)
                taken = min(wanted, gift.remaining if contract.status == "trialing" else kept)
                part = min(taken, gift.remaining)
                gift.remaining -= part
                gift.clawed += taken
                self.balance -= part
                self.take(taken - part)
                wanted -= taken
        return wanted

    def turn(self, now: datetime) -> None:
        """Advances every contract to `now`."""
        for contract in self.contracts:
            while self._turn_once(contract, now):
                pass

    def _turn_once(self, contract: Contract, now: datetime) -> bool:
        if contract.status == "incomplete" and now >= contract.made + timedelta(hours=24):
            contract.status = "expired"
            return False
        if contract.status not in LIVING:
            return False
        if contract.status == "past_due" and now >= (contract.unpaid_since or contract.end) + GRACE:
            return self.end(contract, "expired")
        if now < contract.end:
            return False
        if contract.is_ending:
            return self.end(contract, "expired")
        if contract.provider != "manual" or contract.status not in ("trialing", "active"):
            return False
        self.settle(contract.end)
        if contract.status == "trialing":
            contract.anchor = contract.end
        contract.status = "active"
        contract.offer = contract.next_offer or contract.offer
        self.next_period(contract)
        return True

    def end(self, contract: Contract, status: str) -> bool:
        contract.status, contract.is_ending = status, False
        return False

    def supersede_others(self, successor: Contract) -> None:
        """Ends what runs or may be paid for again, since an account has one subscription."""
        for other in self.contracts:
            if other is not successor and (other.status in LIVING or other.is_unpaid):
                other.is_superseded = other.provider != "manual"
                self.end(other, "canceled")

    def next_period(self, contract: Contract) -> None:
        """The one after this period, by the anchor as long as its end is a boundary of it."""
        word, count = contract.offer.interval
        known = boundaries(contract.anchor, word, count, zone=self.zone, until=contract.end)
        if contract.end not in known:
            contract.anchor = contract.end
            known = boundaries(contract.anchor, word, count, zone=self.zone, until=contract.end)
        self.enter(contract, contract.end, known[-1])

    def period_from(self, contract: Contract, now: datetime) -> None:
        word, count = contract.offer.interval
        contract.anchor = now
        self.enter(contract, now, boundaries(now, word, count, zone=self.zone, until=now)[-1])

    def enter(self, contract: Contract, start: datetime, end: datetime) -> None:
        contract.start, contract.end = start, end
        contract.quantity = contract.next_quantity or contract.quantity
        contract.next_offer = contract.next_quantity = None
        self.open_period(contract)
