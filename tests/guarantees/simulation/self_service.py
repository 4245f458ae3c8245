"""Persons who try everything that customers may do by themselves, and the credits and the money that it comes to.

All plans and packs cost the same for each credit, so a person may have what the person paid for, and the allowances.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from secrets import token_hex
from typing import Any
from uuid import UUID, uuid4

import httpx
from sqlalchemy import text

from gateway.clock import now
from gateway.config.plans import Pack
from gateway.ledger.accounts import erasure, persons, users
from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue import plans
from gateway.ledger.catalogue.plans import PlanTerms
from gateway.ledger.db.errors import AlreadyExists
from gateway.ledger.usage.ingestion import ingest
from policies.access.persons import digest
from tests.ledger.make import a_line
from tests.payments.conftest import STRIPE_SECRETS
from tests.payments.fake_stripe import FakeStripe, Object, signed
from tests.payments.payment_stack import SECRET, PaymentStack, account_app

CREDITS_PER_CENT = Decimal("0.1")
FREE, TRIAL, TRIAL_DAYS = 10, 100, 7
PRICES = {"price_small": 1000, "price_large": 3000, "price_team": 1000, "price_trial": 1000, "price_pack": 500}
PACK = Pack(id="pack-50", name="50 credits", credits=50, price=Decimal("5.00"), stripe_price_id="price_pack")
PLANS = {
    "gratis": PlanTerms(name="Gratis", price=Decimal(0), credits_per_period=FREE),
    **{
        name: PlanTerms(
            name=name.title(),
            price=Decimal(PRICES[f"price_{name}"]) / 100,
            credits_per_period=PRICES[f"price_{name}"] // 10,
            pricing_model="per_seat" if name == "team" else "flat",
            trial_period_days=TRIAL_DAYS if name == "trial" else 0,
            provider_ids={"stripe_price_id": f"price_{name}"},
        )
        for name in ("small", "large", "team", "trial")
    },
}


class CountingStripe(FakeStripe):
    """Stripe, and what the seller earned by it."""

    def paid_cents(self) -> int:
        """What is the seller's to keep: charges without refunds and disputes, less what customers have as balance, also
        where it waits for the rest of an invoice to be paid.
        """
        lost = {each["charge"] for each in self.list_all("dispute") if each["status"] != "won"}
        kept = sum(
            each["amount"] - each["amount_refunded"] for each in self.list_all("charge") if each["id"] not in lost
        )
        unpaid = [each for each in self.list_all("invoice") if each["status"] == "open"]
        waiting = sum(max(each["total"], 0) - each["amount_due"] for each in unpaid)
        return int(kept - sum(self.balances.values()) - waiting)


@dataclass
class Account:
    user: User
    person: int
    client: httpx.AsyncClient
    is_deleted: bool = False
    is_proven: bool = False
    checkouts: list[UUID] = field(default_factory=list)


@dataclass
class World:
    stack: PaymentStack
    fake_stripe: CountingStripe
    name: str = field(default_factory=lambda: token_hex(8))
    accounts: list[Account] = field(default_factory=list)
    told: list[Object] = field(default_factory=list)
    changes: int = 0

    async def act(self, action: tuple[Any, ...]) -> None:
        """What is not possible is refused, and changes nothing."""
        kind, *given = action
        if kind == "at_once":
            await asyncio.gather(*(self._act(one, given_) for one, *given_ in given))
        else:
            await self._act(kind, given)
        await self.deliver()

    async def _act(self, kind: str, given: list[Any]) -> None:
        if kind == "register":
            await self.register(*given)
        elif self.accounts:
            account = self.accounts[given[0] % len(self.accounts)]
            deed: Callable[..., Awaitable[None]] = getattr(self, kind)
            await deed(account, *given[1:])

    async def deliver(self) -> None:
        events = self.fake_stripe.new_events()
        self.told += events
        for event in events:
            await self.stack.deliver(*signed(event, STRIPE_SECRETS[0]))
        await self.stack.process_all()

    async def call(self, account: Account, method: str, path: str, body: Any = None) -> Any:
        """The JSON of the answer, None for a refusal; a fault of the gateway fails."""
        answer = await account.client.request(method, path, json=body)
        assert answer.status_code < 500 or answer.status_code in (501, 503), answer.text
        return answer.json() if answer.status_code < 300 and answer.content else None

    # What persons do.

    async def register(self, person: int, tag: int) -> None:
        email = f"{self.name}.{person}{f'+{tag}' if tag else ''}@example.com"
        async with self.stack.database.transaction() as connection:
            try:
                user = await users.create(connection, email, persons=(digest(SECRET, email),))
            except AlreadyExists:
                return
        self.accounts.append(Account(user, person, await self.stack.client_for(user)))

    async def verify(self, account: Account) -> None:
        if account.is_deleted:
            return
        account.is_proven = True
        async with self.stack.database.transaction() as connection:
            await users.patch(connection, account.user.id, email_verified_at=now())
            await persons.remember(connection, account.user.id, digest(SECRET, account.user.email), is_proven=True)
            await persons.recognise(connection, account.user.id, now=now(), actor="test")

    async def delete(self, account: Account) -> None:
        if account.is_deleted:
            return
        account.is_deleted = True
        async with self.stack.database.transaction() as connection:
            await erasure.erase(connection, account.user.id, now=now())

    async def order(self, account: Account, plan_id: str, seats: int) -> None:
        made = await self.call(account, "POST", f"/subscriptions/{plan_id}", {"quantity": seats})
        if made is not None and made["checkout_id"] is not None:
            account.checkouts.append(UUID(made["checkout_id"]))

    async def buy(self, account: Account, plan_id: str, seats: int) -> None:
        await self.order(account, plan_id, seats)
        await asyncio.sleep(0)
        await self.pay(account, -1)

    async def buy_pack(self, account: Account) -> None:
        made = await self.call(account, "POST", "/me/credits/checkout", {"pack": PACK.id})
        if made is not None:
            account.checkouts.append(UUID(made["id"]))

    async def pay(self, account: Account, which: int) -> None:
        """At the checkout's page, which stays open whatever became of the account."""
        if not account.checkouts:
            return
        checkout_id = account.checkouts[which % len(account.checkouts)]
        async with self.stack.database.read() as connection:
            query = text("SELECT provider_checkout_id FROM checkouts WHERE id = :id")
            session_id = await connection.scalar(query, {"id": checkout_id})
        if session_id is not None and self.fake_stripe.objects[session_id]["status"] == "open":
            self.fake_stripe.pay_checkout(session_id)

    async def confirm(self, account: Account, which: int) -> None:
        if account.checkouts:
            checkout_id = account.checkouts[which % len(account.checkouts)]
            await self.call(account, "POST", f"/me/checkout/{checkout_id}/confirm")

    async def change(self, account: Account, plan_id: str, seats: int | None, at_period_end: bool) -> None:
        found = await self.call(account, "GET", "/subscriptions/me")
        if found is not None:
            self.changes += 1
            body = {"plan_id": plan_id, "quantity": seats, "at_period_end": at_period_end}
            await self.call(account, "POST", f"/subscriptions/{found['id']}/change", body)

    async def cancel(self, account: Account, at_once: bool) -> None:
        found = await self.call(account, "GET", "/subscriptions/me")
        if found is not None:
            await self.call(account, "DELETE", f"/subscriptions/{found['id']}{'?now=true' if at_once else ''}")

    async def undo(self, account: Account) -> None:
        found = await self.call(account, "GET", "/subscriptions/me")
        if found is not None:
            await self.call(account, "POST", f"/subscriptions/{found['id']}/undo-cancel")
            await self.call(account, "POST", f"/subscriptions/{found['id']}/undo-change")

    async def spend(self, account: Account, credits: int) -> None:
        """As far as calls are admitted."""
        left = await self.stack.balance(account.user)
        if account.is_deleted or left <= 0:
            return
        line = a_line(account.user.id, credits_charged=min(left, credits), at=now(), request_id=str(uuid4()))
        async with self.stack.database.transaction() as connection:
            await ingest(connection, [line])

    # What banks, time and the operator do for them.

    async def renew(self, account: Account, succeeds: bool) -> None:
        for found in self._subscriptions(account):
            if found["status"] == "active" and not found["cancel_at_period_end"]:
                self.fake_stripe.renew(found["id"], succeeds=succeeds)

    async def refund(self, account: Account, which: int, percent: int) -> None:
        paid = [each for each in self._payments(account) if each["amount_refunded"] < each["amount"]]
        if paid:
            charge = paid[which % len(paid)]
            cents = max(1, (charge["amount"] - charge["amount_refunded"]) * percent // 100)
            self.fake_stripe.refund(charge["payment_intent"], cents)

    async def dispute(self, account: Account, which: int) -> None:
        paid = [each for each in self._payments(account) if not each["disputed"] and not each["amount_refunded"]]
        if paid:
            charge = paid[which % len(paid)]
            self.fake_stripe.dispute(charge["payment_intent"])

    async def decide(self, account: Account, which: int, won: bool) -> None:
        charges = {each["id"] for each in self._payments(account)}
        disputes = self.fake_stripe.list_all("dispute")
        open_ones = [each for each in disputes if each["charge"] in charges and each["status"] == "needs_response"]
        if open_ones:
            self.fake_stripe.decide(open_ones[which % len(open_ones)]["id"], "won" if won else "lost")

    async def repeat(self, account: Account, which: int) -> None:  # noqa: ARG002 - whoever it is about
        """The provider tells again what it told."""
        for event in self.told[which % (len(self.told) or 1) :][:3]:
            await self.stack.deliver(*signed(event, STRIPE_SECRETS[0]))

    # What it comes to.

    async def surplus(self) -> Decimal:
        """Credits had beyond those paid for: spent or left, debts taken off."""
        ids = [account.user.id for account in self.accounts]
        async with self.stack.database.read() as connection:
            had = await connection.scalar(_HAD, {"ids": ids})
            free = set(await connection.scalars(_GRANTED, {"ids": ids, "plan": "gratis"}))
            tried = set(await connection.scalars(_TRIED, {"ids": ids}))
        allowed = FREE * len(self._persons(free)) + TRIAL * len(self._persons(tried))
        return Decimal(had or 0) - self.fake_stripe.paid_cents() * CREDITS_PER_CENT - allowed

    async def lost(self) -> Decimal:
        """Credits paid for that nobody had: neither spent, nor left, nor at their end. A deletion forfeits all."""
        if any(account.is_deleted for account in self.accounts):
            return Decimal(0)
        ids = [account.user.id for account in self.accounts]
        async with self.stack.database.read() as connection:
            had = await connection.scalar(_HAD, {"ids": ids})
            expired = await connection.scalar(_EXPIRED, {"ids": ids})
        return self.fake_stripe.paid_cents() * CREDITS_PER_CENT - Decimal(had or 0) - Decimal(expired or 0)

    async def escaped_debt(self) -> int:
        """What erased accounts owe that had proved their address, as the person's next account has."""
        for person in {account.person for account in self.accounts}:
            await self.register(person, 9)
            await self.verify(self.accounts[-1])
        ids = [account.user.id for account in self.accounts if account.is_deleted and account.is_proven]
        async with self.stack.database.read() as connection:
            return int(await connection.scalar(_OWED, {"ids": ids}) or 0)

    def _persons(self, ids: set[UUID]) -> set[int]:
        return {account.person for account in self.accounts if account.user.id in ids}

    def _customers(self, account: Account) -> set[str]:
        customers = self.fake_stripe.list_all("customer")
        return {each["id"] for each in customers if each["metadata"].get("gateway_user") == str(account.user.id)}

    def _subscriptions(self, account: Account) -> list[Object]:
        mine = self._customers(account)
        return [each for each in self.fake_stripe.list_all("subscription") if each["customer"] in mine]

    def _payments(self, account: Account) -> list[Object]:
        mine = self._customers(account)
        return [each for each in self.fake_stripe.list_all("charge") if each["customer"] in mine and each["amount"]]


async def open_shop(stack: PaymentStack) -> PaymentStack:
    """The stack with the plans and the pack of here, and free credits for verified addresses only."""
    async with stack.database.transaction() as connection:
        for plan_id, terms in PLANS.items():
            if await plans.get(connection, plan_id) is None:
                await plans.create(connection, terms, plan_id=plan_id)
    service = replace(stack.checkout_service, packs=(PACK,), requires_verified=True)
    return replace(stack, checkout_service=service, app=account_app(stack.database, service))


_HAD = text("""
    SELECT sum(current_credits + total_credits_used) FROM user_credits WHERE user_id = ANY(CAST(:ids AS uuid[]))
""")
_EXPIRED = text("""
    SELECT -sum(amount) FROM credit_ledger WHERE user_id = ANY(CAST(:ids AS uuid[])) AND kind = 'expiry'
""")
_OWED = text("""
    SELECT -sum(current_credits) FROM user_credits WHERE user_id = ANY(CAST(:ids AS uuid[])) AND current_credits < 0
""")
_GRANTED = text("""
    SELECT DISTINCT g.user_id FROM credit_grants g JOIN subscriptions s ON s.id = g.subscription_id
     WHERE g.user_id = ANY(CAST(:ids AS uuid[])) AND s.plan_id = :plan
""")
_TRIED = text(
    "SELECT DISTINCT user_id FROM credit_grants WHERE user_id = ANY(CAST(:ids AS uuid[])) AND source = 'trial'"
)
