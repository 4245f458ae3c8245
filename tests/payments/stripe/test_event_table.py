"""The table of docs/payments.md: what each event does to access, credits and money."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.clock import now
from gateway.ledger.accounts.users import User
from policies.model import PastDue, Refused
from tests.payments.conftest import STRIPE_SECRETS
from tests.payments.fake_stripe import FakeStripe, Object, signed
from tests.payments.operator.conftest import call, instruct
from tests.payments.payment_stack import GRACE, PaymentStack, only
from tests.payments.stripe.test_past_due import admitted, buy_pack, change_terms, end_grace
from tests.payments.stripe.test_scheduled_changes import ask
from tests.payments.test_price_changes import raise_price
from tests.payments.test_stripe_lifecycle import current_subscription, spend, subscribe_and_pay

PAGE = Path(__file__).parents[3] / "docs" / "payments.md"
HEADER = "| event | status | calls | credits | paid |"


@dataclass
class Case:
    stack: PaymentStack
    world: FakeStripe
    user: User
    subscription_id: str
    is_reversed: bool
    time: datetime = field(default_factory=now)

    async def hear(self) -> None:
        events = self.world.new_events()
        for event in (*events[:: -1 if self.is_reversed else 1], *events):
            await self.stack.deliver(*signed(event, STRIPE_SECRETS[0]))
        await self.stack.process_all()
        await self.stack.expire(self.user, at=self.time)

    async def end_period(self, *, after: timedelta = timedelta(0)) -> None:
        """The worker runs so long after the end of the first period, before anything is heard of the next."""
        self.time = (await current_subscription(self.stack, self.user)).current_period_end + after
        await self.stack.expire(self.user, at=self.time)

    async def renew(self, *, succeeds: bool) -> Object:
        await self.end_period()
        invoice = self.world.renew(self.subscription_id, succeeds=succeeds)
        await self.hear()
        return invoice

    async def draft(self) -> Object:
        await self.end_period()
        invoice = self.world.begin_renewal(self.subscription_id)
        await self.hear()
        return invoice

    async def payment_id(self) -> str:
        return only(await self.stack.payments(self.user), "subscription").provider_payment_id or ""


async def nothing(case: Case) -> None:
    del case


async def unheard(case: Case) -> None:
    await case.end_period(after=GRACE - timedelta(seconds=1))


async def unheard_for_long(case: Case) -> None:
    await case.end_period(after=GRACE)


async def drafted(case: Case) -> None:
    await case.draft()


async def draft_paid(case: Case) -> None:
    case.world.charge_renewal(await case.draft())


async def draft_failed(case: Case) -> None:
    case.world.charge_renewal(await case.draft(), succeeds=False)


def fails(policy: PastDue) -> Callable[[Case], Awaitable[None]]:
    async def failed(case: Case) -> None:
        await change_terms(case.stack, "pro", past_due=policy)
        await case.renew(succeeds=False)

    return failed


async def failed_with_pack(case: Case) -> None:
    await buy_pack(case.stack, case.world, case.user)
    await case.renew(succeeds=False)


async def recovered(case: Case) -> None:
    case.world.recover((await case.renew(succeeds=False))["id"])


async def grace_over(case: Case) -> None:
    await case.renew(succeeds=False)
    await end_grace(case.stack, case.user)


async def recovered_late(case: Case) -> None:
    invoice = await case.renew(succeeds=False)
    await end_grace(case.stack, case.user)
    case.world.recover(invoice["id"])


async def given_up(case: Case) -> None:
    await case.renew(succeeds=False)
    case.world.end(case.subscription_id)


async def ended_with_pack(case: Case) -> None:
    await buy_pack(case.stack, case.world, case.user)
    case.world.end(case.subscription_id)
    await case.hear()
    await case.end_period()


async def fallen_back(case: Case) -> None:
    await change_terms(case.stack, "pro", fallback_plan="free")
    await ended_with_pack(case)


async def half_refunded(case: Case) -> None:
    case.world.refund(await case.payment_id(), 1500)


async def refunded(case: Case) -> None:
    case.world.refund(await case.payment_id())


async def refund_failed(case: Case) -> None:
    refund = case.world.refund(await case.payment_id())
    await case.hear()
    case.world.fail_refund(refund)


async def disputed(case: Case) -> None:
    case.world.dispute(await case.payment_id())


def decided(status: str) -> Callable[[Case], Awaitable[None]]:
    async def decide(case: Case) -> None:
        dispute_id = case.world.dispute(await case.payment_id())
        await case.hear()
        case.world.decide(dispute_id, status)

    return decide


async def scheduled(case: Case) -> None:
    await ask(case.stack, case.user, "change", plan_id="basic", at_period_end=True)


async def scheduled_applied(case: Case) -> None:
    await scheduled(case)
    await case.renew(succeeds=True)


async def cancelled(case: Case) -> None:
    await case.stack.provider.cancel(case.subscription_id, at_period_end=True)


async def cancelled_over(case: Case) -> None:
    await cancelled(case)
    await case.hear()
    await case.end_period()
    case.world.end(case.subscription_id)


async def resumed(case: Case) -> None:
    await cancelled(case)
    await case.hear()
    await case.stack.provider.resume(case.subscription_id)


async def paused(case: Case) -> None:
    await call(case.stack, case.user, "pause")
    await instruct(case.stack)


async def paused_for_long(case: Case) -> None:
    await paused(case)
    await case.renew(succeeds=True)


async def unpaused(case: Case) -> None:
    await paused_for_long(case)
    await call(case.stack, case.user, "resume")
    await instruct(case.stack)
    case.world.renew(case.subscription_id)


async def upgraded_by_operator(case: Case) -> None:
    await call(case.stack, case.user, "change", plan_id="basic", at_period_end=True)
    await case.renew(succeeds=True)
    await call(case.stack, case.user, "change", plan_id="pro")


async def pack_bought(case: Case) -> None:
    await buy_pack(case.stack, case.world, case.user)


async def price_raised(case: Case) -> None:
    """Last: whoever subscribes after it pays more."""
    await raise_price(case.stack, case.world, subscribers=None)
    await case.renew(succeeds=True)


EVENTS: dict[str, Callable[[Case], Awaitable[None]]] = {
    "nothing": nothing,
    "the period ends, and Stripe tells of no other": unheard,
    "it tells of none until the grace is over": unheard_for_long,
    "the next period begins, its invoice a draft": drafted,
    "the draft is paid": draft_paid,
    "the draft's payment fails": draft_failed,
    "the renewal fails, and the plan says `purchased_only`": fails(PastDue.PURCHASED_ONLY),
    "the renewal fails, and the plan says `serve`": fails(PastDue.SERVE),
    "the renewal fails, and the plan says `stop`": fails(PastDue.STOP),
    "the renewal fails, and 100 credits were bought": failed_with_pack,
    "a failed renewal is paid after all": recovered,
    "the grace is over": grace_over,
    "it is paid after the grace": recovered_late,
    "Stripe ends it unpaid": given_up,
    "it ends, and 100 credits were bought": ended_with_pack,
    "it ends, 100 credits were bought, and there is a `fallback_plan`": fallen_back,
    "half of the payment is refunded": half_refunded,
    "the payment is refunded": refunded,
    "the refund fails at the bank": refund_failed,
    "the payment is disputed": disputed,
    "the dispute is won": decided("won"),
    "the dispute is lost": decided("lost"),
    "a downgrade to 100 credits for 9.99 is scheduled": scheduled,
    "the scheduled downgrade takes effect": scheduled_applied,
    "it is cancelled with its period": cancelled,
    "the cancellation is undone": resumed,
    "the last period ends": cancelled_over,
    "an operator pauses it": paused,
    "an operator pauses it, and the next period begins": paused_for_long,
    "it is resumed after that, and the next payment falls due": unpaused,
    "an operator schedules a plan of 9.99, and later changes it back at once": upgraded_by_operator,
    "100 credits are bought for 5.00": pack_bought,
    "the price rises to 39.99, and the next period is paid": price_raised,
}


def rows() -> list[list[str]]:
    _, _, table = PAGE.read_text("utf-8").partition(HEADER)
    lines = table.strip().split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_table_has_every_event_once() -> None:
    assert [row[0] for row in rows()] == list(EVENTS)


@pytest.mark.parametrize("is_reversed", [False, True], ids=["in order", "reversed"])
async def test_events_do_what_the_table_says(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, is_reversed: bool
) -> None:
    """Each row is another customer's; all rows that differ are told."""
    found = []
    for event, happens in EVENTS.items():
        await change_terms(stripe_stack, "pro", past_due=PastDue.PURCHASED_ONLY, fallback_plan=None)
        user = await stripe_stack.create_user()
        subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
        await spend(stripe_stack, user, 400)
        case = Case(stripe_stack, fake_stripe, user, subscription_id, is_reversed)
        await happens(case)
        await case.hear()
        found.append([event, *await state_of(case)])
    assert found == rows()
    assert not await stripe_stack.event_reasons("failed")


async def state_of(case: Case) -> tuple[str, str, str, str]:
    balance = await case.stack.balance(case.user)
    paid = sum(
        (row.amount - row.refunded_amount)
        for row in await case.stack.payments(case.user)
        if row.transaction_type in ("subscription", "credits") and row.status in ("completed", "partially_refunded")
    )
    try:
        await admitted(case.stack, case.user)
        calls = "served" if balance > 0 else "refused"
    except Refused:
        calls = "refused"
    status = str((await current_subscription(case.stack, case.user)).status)
    return status, calls, str(balance), f"{Decimal(paid):.2f}"
