"""What a coupon takes off, what it is for, and why it does not hold for an offer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from policies.billing.money import EXACT, rounded
from policies.wording import counted

# How long a checkout with a coupon can be paid at: so long a buyer who leaves it keeps the coupon from others.
RESERVED_MINUTES = 60
_MONTHS = {"month": 1, "year": 12}


@dataclass(frozen=True, slots=True, kw_only=True)
class CouponTerms:
    """One of `percent_off`, `amount_off` (in `currency`) and `bonus_credits`, which come with a pack.

    `periods`: of a plan, from the first payment on. `plans` and `packs` by id; None: all of them.
    """

    percent_off: Decimal | None
    amount_off: Decimal | None
    currency: str | None
    bonus_credits: int | None
    periods: int
    plans: Collection[str] | None
    packs: Collection[str] | None
    expires_at: datetime | None
    is_active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """A plan with its billing interval, or a pack without one; `price` is for all that is bought, such as seats."""

    id: str
    price: Decimal
    currency: str
    interval: str | None = None
    interval_count: int = 1

    @property
    def is_plan(self) -> bool:
        return self.interval is not None

    @property
    def title(self) -> str:
        return f"the {'plan' if self.is_plan else 'pack'} {self.id}"


def refusal(terms: CouponTerms, offer: Purchase, *, now: datetime) -> str | None:
    """Why the coupon does not hold for the offer, as the end of a sentence; None where it does."""
    if not terms.is_active:
        return "is no longer valid"
    if terms.expires_at is not None and terms.expires_at <= now:
        return f"expired on {terms.expires_at:%Y-%m-%d}"
    if terms.bonus_credits is not None and offer.is_plan:
        return "gives credits with a pack, and is for no plan"
    sold = terms.plans if offer.is_plan else terms.packs
    if sold is not None and offer.id not in sold:
        return f"is not for {offer.title}"
    if terms.currency not in (None, offer.currency):
        return f"takes off {terms.currency}, and {offer.title} is sold in {offer.currency}"
    if offer.is_plan and terms.periods > 1 and offer.interval not in _MONTHS:
        return f"is for {counted(terms.periods, 'period')}, and providers count no {offer.interval}s"
    return None


def discount_of(terms: CouponTerms, offer: Purchase) -> Decimal:
    """What it takes off one payment, at most all of it."""
    if terms.percent_off is not None:
        return rounded(EXACT.multiply(offer.price, EXACT.divide(terms.percent_off, Decimal(100))), offer.currency)
    return min(terms.amount_off or Decimal(0), offer.price)


def months_of(terms: CouponTerms, offer: Purchase) -> int | None:
    """For how many months from the first payment on it takes something off; None: off one payment."""
    if offer.interval is None or terms.periods == 1:
        return None
    return terms.periods * _MONTHS[offer.interval] * offer.interval_count


def describe(terms: CouponTerms, *, is_plan: bool) -> str:
    """Such as `20 % off, for 3 periods`."""
    if terms.bonus_credits is not None:
        return f"{counted(terms.bonus_credits, 'credit')} more"
    if terms.percent_off is not None:
        off = f"{terms.percent_off.normalize():f} % off"
    else:
        off = f"{terms.amount_off} {terms.currency} off"
    if not is_plan:
        return off
    return f"{off}, once" if terms.periods == 1 else f"{off}, for {counted(terms.periods, 'period')}"
