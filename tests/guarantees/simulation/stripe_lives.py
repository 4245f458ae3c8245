"""A random year of a customer of Stripe: what persons, banks and time do, each followed by its messages in disorder.

Calls are made on the balance that Redis knows, and are recorded now or after other things have happened.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.subscriptions import renewals
from gateway.meter.replay_buffer import Settlement
from gateway.meter.replies import Verdict
from gateway.workers.outbox import OutboxPublisher
from gateway.workers.usage.usage_writer import UsageWriter
from tests.guarantees.simulation.second_books import Object, SecondBooks
from tests.payments.conftest import STRIPE_SECRETS
from tests.payments.fake_stripe import FakeStripe, signed
from tests.payments.payment_stack import GRACE, PaymentStack
from tests.workers.conftest import UNLIMITED, Backend, a_prefix, a_suffix

DAY = 86_400
# Plan, price, credits of a period, by seat or not.
SOLD = (("basic", 999, 100, False), ("pro", 2999, 1000, False), ("team", 500, 50, True))


@dataclass
class Calls:
    """A customer's calls: admitted and settled in Redis, and recorded in PostgreSQL when `record` runs."""

    backend: Backend
    user: User
    spent: int = 0
    under_way: list[tuple[str, int]] = field(default_factory=list)

    async def call(self, amount: int, *, at: datetime) -> bool:
        """Whether the balance admits it."""
        meter, request_id = self.backend.meter, str(uuid4())
        keys, verdict = meter.keys(self.user.id), Verdict.NOT_LOADED
        moment = int(at.timestamp() * 1_000_000)
        while verdict is Verdict.NOT_LOADED:
            await self.backend.load(self.user.id)
            versions = await meter.versions(keys)
            admission = await meter.admit(
                keys,
                request_id=request_id,
                account_version=versions.account,
                catalogue_version=max(versions.catalogue, 1),
                amount=amount,
                required=amount,
                limits=UNLIMITED,
                prefix=a_prefix(self.user.id, request_id, moment=moment),
            )
            verdict = admission.verdict
        assert verdict in (Verdict.ADMITTED, Verdict.INSUFFICIENT_CREDITS)
        if verdict is Verdict.ADMITTED:
            self.under_way.append((request_id, amount))
        return verdict is Verdict.ADMITTED

    async def end(self) -> None:
        meter = self.backend.meter
        for request_id, amount in self.under_way:
            await meter.settle(Settlement(meter.keys(self.user.id), request_id, amount, a_suffix(amount)))
            self.spent += amount
        self.under_way.clear()

    async def record(self) -> None:
        """Moves changes to the other store, in both directions."""
        await OutboxPublisher(self.backend.database, self.backend.meter).publish_all()
        while await UsageWriter(self.backend.database, self.backend.journal).run_once():
            pass


@dataclass
class Life:
    stack: PaymentStack
    calls: Calls
    world: FakeStripe
    books: SecondBooks
    user: User
    draw: random.Random
    done: list[str] = field(default_factory=list)
    subscription_id: str = ""
    is_over: bool = True

    @property
    def at_stripe(self) -> Object:
        return self.world.objects[self.subscription_id]

    @property
    def customer_id(self) -> str:
        return str(self.at_stripe["customer"])

    @property
    def item(self) -> Object:
        item: Object = self.at_stripe["items"]["data"][0]
        return item

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.world.now, UTC)

    async def live(self, months: int) -> None:
        for _ in range(months):
            if self.is_over:
                await self.subscribe()
            for _ in range(self.draw.randint(0, 3)):
                self.world.now += self.draw.randint(1, 8) * DAY
                await self.act()
            await self.end_period()

    async def act(self) -> None:
        acts: tuple[Callable[[], Awaitable[None]], ...] = (
            self.spend,
            self.spend,
            self.buy_pack,
            self.change_now,
            self.change_now,
            self.change_later,
            self.refund,
            self.dispute,
            self.cancel_or_not,
            self.raise_price,
        )
        act = self.draw.choice(acts)
        self.done.append(f"{self.now():%m-%d} {act.__name__}")
        await act()
        await self.hear()

    async def subscribe(self) -> None:
        """Some leave another checkout unpaid before."""
        if self.draw.random() < 0.2:
            await self.stack.subscribe(self.user, self.draw.choice(SOLD)[0])
        plan, *_ = self.draw.choice(SOLD)
        checkout = await self.stack.subscribe(self.user, plan)
        self.world.pay_checkout(checkout.provider_checkout_id or "")
        self.subscription_id = str(self.world.objects[checkout.provider_checkout_id or ""]["subscription"])
        self.is_over = False
        self.done.append(f"{self.now():%m-%d} subscribe {plan}")
        await self.hear()

    async def spend(self) -> None:
        """As much as there is, in some cases, and calls that end later."""
        amount = self.draw.randint(1, 600)
        while amount and not await self.calls.call(amount, at=self.now()):
            amount //= 2
        self.done.append(f"      {amount} credits")
        if self.draw.random() < 0.7:
            await self.calls.end()

    async def buy_pack(self) -> None:
        checkout = await self.stack.buy_pack(self.user)
        self.world.pay_checkout(checkout.provider_checkout_id or "")

    async def change_now(self) -> None:
        await self._change(at_period_end=False)

    async def change_later(self) -> None:
        if self.draw.random() < 0.3:
            await self._post("undo-change")
        else:
            await self._change(at_period_end=True)

    async def _change(self, *, at_period_end: bool) -> None:
        plan, _, _, is_per_seat = self.draw.choice(SOLD)
        card = self.draw.choice(("good", "good", "declined", "3ds"))
        self.world.cards[self.customer_id] = card
        before, latest = dict(self.item), self.at_stripe["latest_invoice"]
        quantity = self.draw.randint(1, 4) if is_per_seat else None
        answer = await self._post("change", plan_id=plan, quantity=quantity, at_period_end=at_period_end)
        self.done.append(f"      {plan} x{quantity} {card}: {answer}")
        invoice_id, pending = self.at_stripe["latest_invoice"], self.at_stripe["pending_update"]
        if pending and self.draw.random() < 0.7:
            await self.hear()
            self.world.changes.confirm(invoice_id)
        elif pending:
            await self.hear()
            self.world.changes.expire_pending(self.subscription_id)
        if invoice_id != latest:
            self.books.record_change(before, self.item, invoice_id)
        self.world.cards[self.customer_id] = "good"

    async def refund(self) -> None:
        """Of what is left of a payment."""
        invoice = self._a_payment()
        charge = invoice and self.world.charge_of(invoice["id"])
        if invoice and charge and not charge["disputed"] and charge["amount"] > charge["amount_refunded"]:
            left = charge["amount"] - charge["amount_refunded"]
            self.world.refund(invoice["id"], self.draw.choice((left, self.draw.randint(1, left))))

    async def dispute(self) -> None:
        invoice = self._a_payment()
        if invoice and not self.world.charge_of(invoice["id"])["disputed"]:
            if self.world.charge_of(invoice["id"])["amount_refunded"]:
                return
            dispute_id = self.world.dispute(invoice["id"])
            await self.hear()
            self.world.decide(dispute_id, self.draw.choice(("won", "lost")))

    async def cancel_or_not(self) -> None:
        self.at_stripe["schedule"] = None
        self.at_stripe["cancel_at_period_end"] = self.draw.random() < 0.5
        self.world.emit("customer.subscription.updated", self.at_stripe)

    async def raise_price(self) -> None:
        """For new subscribers, with other credits; who is on the plan keeps both."""
        plan, price, credits, is_per_seat = self.draw.choice(SOLD)
        new_id = f"price_{plan}_{len(self.world.prices)}"
        async with self.stack.database.transaction() as connection:
            found = await plans.get(connection, plan)
            assert found is not None
            raised = price + self.draw.randint(1, 500)
            while Decimal(raised).scaleb(-2) == found.terms.price:  # other credits at the same price are everyone's
                raised = price + self.draw.randint(1, 500)
            self.world.prices[new_id] = raised
            self.books.credits[new_id] = credits + self.draw.randint(1, 50)
            if is_per_seat:
                self.books.per_seat.add(new_id)
            terms = replace(
                found.terms,
                price=Decimal(raised).scaleb(-2),
                credits_per_period=self.books.credits[new_id],
                provider_ids={**found.terms.provider_ids, "stripe_price_id": new_id},
            )
            await plans.change(connection, plan, terms)

    async def end_period(self) -> None:
        """The period ends: by a cancellation, or with an invoice that is paid at once, late, or not at all."""
        self.world.now = max(self.world.now, int(self.item["current_period_end"]))
        if self.at_stripe["cancel_at_period_end"]:
            self.world.end(self.subscription_id)
            self.is_over = True
            self.done.append(f"{self.now():%m-%d} ended")
            return await self.hear()
        invoice = self.world.begin_renewal(self.subscription_id)
        await self.hear()
        await self.spend()
        self.world.now += 3900
        fate = self.draw.choice(("paid", "paid", "paid", "recovered", "late", "given up"))
        self.done.append(f"{self.now():%m-%d} renewal {fate}")
        self.world.charge_renewal(invoice, succeeds=fate == "paid")
        await self.hear()
        if fate != "paid":
            self.world.now += DAY if fate == "recovered" else 5 * DAY
            await self.hear()
            if fate == "given up":
                self.world.end(self.subscription_id)
                self.is_over = True
            else:
                self.world.recover(invoice["id"])
            await self.hear()
        return None

    async def hear(self) -> None:
        """All messages since, in disorder and some twice; then what the clock makes due."""
        events = self.world.new_events()
        events += self.draw.sample(events, len(events) // 2)
        self.draw.shuffle(events)
        for event in events:
            await self.stack.deliver(*signed(event, STRIPE_SECRETS[0], at=None))
            if self.draw.random() < 0.5:
                await self.stack.process_all()
            if self.draw.random() < 0.1:
                await self.calls.record()
        await self.stack.process_all()
        found = await self.stack.subscription(self.user)
        await self.stack.expire(self.user, at=self.now())
        async with self.stack.database.transaction() as connection:
            if found is not None:
                await renewals.advance(connection, found.id, now=self.now(), grace=GRACE)
        await self.calls.record()

    def _a_payment(self) -> Object | None:
        found = self.books.payments(self.customer_id)
        return self.draw.choice(found) if found else None

    async def _post(self, verb: str, **body: object) -> int:
        found = await self.stack.subscription(self.user)
        assert found is not None
        async with await self.stack.client_for(self.user) as client:
            answer = await client.post(f"/subscriptions/{found.id}/{verb}", json=body or None)
        assert answer.status_code in (200, 409, 422), answer.text
        return answer.status_code


async def sell(stack: PaymentStack, world: FakeStripe) -> SecondBooks:
    """The plans of SOLD, as they are at the beginning."""
    books = SecondBooks(world, {}, set())
    async with stack.database.transaction() as connection:
        for plan, price, credits, is_per_seat in SOLD:
            price_id = f"price_{plan}"
            world.prices[price_id], books.credits[price_id] = price, credits
            if is_per_seat:
                books.per_seat.add(price_id)
            if await plans.get(connection, plan) is None:
                terms = PlanTerms(
                    name=plan.title(),
                    price=Decimal(price).scaleb(-2),
                    credits_per_period=credits,
                    pricing_model="per_seat" if is_per_seat else "flat",
                    provider_ids={"stripe_price_id": price_id},
                )
                await plans.create(connection, terms, plan_id=plan)
    return books
