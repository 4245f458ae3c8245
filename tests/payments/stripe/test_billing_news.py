"""Customers get a mail, and the operator's system an event, of what happens to payments and subscriptions, once."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import text

from gateway.ledger.accounts.users import User
from gateway.workers.billing.renewals import AdvanceNoticeWorker
from tests.ledger.make import list_notifications
from tests.payments.fake_stripe import FakeStripe
from tests.payments.operator.conftest import admin_client
from tests.payments.payment_stack import PaymentStack, only
from tests.payments.test_stripe_lifecycle import current_subscription, deliver_all, subscribe_and_pay

GRACE = timedelta(days=7)


def _worker(stack: PaymentStack, at: datetime) -> AdvanceNoticeWorker:
    return AdvanceNoticeWorker(stack.database, grace=GRACE, now=lambda: at)


async def told(stack: PaymentStack, user: User) -> list[str]:
    """The kinds since it was asked last; those that are mailed too with a star."""
    query = text("""
        WITH fresh AS (DELETE FROM notice_deliveries d USING notices n
                        WHERE n.id = d.notice_id AND n.user_id = :id RETURNING n.id, n.kind, d.channel)
        SELECT kind || CASE WHEN bool_or(channel = 'mail') THEN ' *' ELSE '' END FROM fresh GROUP BY id, kind
    """)
    async with stack.database.transaction() as connection:
        return sorted((await connection.scalars(query, {"id": user.id})).all())


async def test_life_of_a_subscription_is_told_once(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    assert await told(stripe_stack, user) == ["payment.received *", "subscription.started"]
    draft = fake_stripe.begin_renewal(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    fake_stripe.charge_renewal(draft)
    await deliver_all(stripe_stack, fake_stripe)
    assert await told(stripe_stack, user) == ["payment.received *", "subscription.renewed"]
    failed = fake_stripe.renew(subscription_id, succeeds=False)
    await deliver_all(stripe_stack, fake_stripe)
    assert await told(stripe_stack, user) == ["payment.failed *", "subscription.past_due"]
    fake_stripe.recover(failed["id"])
    await deliver_all(stripe_stack, fake_stripe)
    assert await told(stripe_stack, user) == ["payment.received *", "subscription.recovered", "subscription.renewed"]
    fake_stripe.refund(failed["id"], 1000)
    await deliver_all(stripe_stack, fake_stripe)
    assert await told(stripe_stack, user) == ["payment.refunded *"]
    await stripe_stack.provider.cancel(subscription_id, at_period_end=True)
    await deliver_all(stripe_stack, fake_stripe)
    assert await told(stripe_stack, user) == ["subscription.cancelled *"]
    fake_stripe.end(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert await told(stripe_stack, user) == ["subscription.ended *"]


async def test_inquiry_is_told_once_it_is_a_dispute(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    payment = only(await stripe_stack.payments(user), "subscription").provider_payment_id or ""
    await told(stripe_stack, user)
    dispute_id = fake_stripe.dispute(payment)
    for status, news, balance in (
        ("warning_needs_response", [], 1000),
        ("warning_closed", [], 1000),
        ("needs_response", ["payment.disputed"], 0),
        ("won", ["payment.dispute_closed"], 1000),
    ):
        fake_stripe.decide(dispute_id, status)
        await deliver_all(stripe_stack, fake_stripe)
        assert (await told(stripe_stack, user), await stripe_stack.balance(user)) == (news, balance), status


async def test_plan_that_was_paid_for_twice_is_told_and_listed(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    first, second = [(await stripe_stack.subscribe(user, plan)).provider_checkout_id or "" for plan in ("basic", "pro")]
    for checkout in (first, second):
        fake_stripe.pay_checkout(checkout)
        await deliver_all(stripe_stack, fake_stripe)
    fake_stripe.renew(fake_stripe.objects[first]["subscription"])
    await deliver_all(stripe_stack, fake_stripe)  # nothing else becomes known by it
    assert (await told(stripe_stack, user)).count("subscription.paid_twice *") == 1
    kept = await current_subscription(stripe_stack, user)
    async with admin_client(stripe_stack) as client:
        query = {"superseded": "true", "user_id": str(user.id)}
        (listed,) = (await client.get("/admin/v1/subscriptions", params=query)).json()["data"]
        assert (listed["plan_id"], listed["superseded_by"]) == ("basic", str(kept.id))
        (other,) = (await client.get("/admin/v1/subscriptions", params={**query, "superseded": "false"})).json()["data"]
        assert (other["id"], other["superseded_by"]) == (str(kept.id), None)


async def test_payment_of_long_before_is_no_news(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    payment = only(await stripe_stack.payments(user), "subscription")
    await told(stripe_stack, user)
    async with stripe_stack.database.transaction() as connection:
        await connection.execute(text("DELETE FROM payment_transactions WHERE id = :id"), {"id": payment.id})
        await connection.execute(text("DELETE FROM provider_objects WHERE kind = 'payment'"))
    invoice = fake_stripe.objects[payment.provider_payment_id or ""]
    invoice["created"] = 1_500_000_000
    fake_stripe.emit("invoice.paid", invoice)
    await deliver_all(stripe_stack, fake_stripe)
    assert len(await stripe_stack.payments(user)) == 1
    assert await told(stripe_stack, user) == []


async def test_end_of_a_trial_is_told_three_days_before(stripe_stack: PaymentStack) -> None:
    user = await stripe_stack.create_user()
    async with admin_client(stripe_stack) as client:
        changed = await client.patch("/admin/v1/plans/pro", json={"trial_period_days": 14})
        assert changed.status_code == 200, changed.text
        body = {"user_id": str(user.id), "plan_id": "pro", "trial": True}
        assert (await client.post("/admin/v1/subscriptions", json=body)).status_code == 201
        await client.patch("/admin/v1/plans/pro", json={"trial_period_days": 0})
    await told(stripe_stack, user)
    end = (await current_subscription(stripe_stack, user)).current_period_end
    for before, expected in ((timedelta(days=3, seconds=1), []), (timedelta(days=3), ["subscription.trial_ends *"])):
        worker = _worker(stripe_stack, end - before)
        await worker.run_once()
        assert await told(stripe_stack, user) == expected
    assert await worker.run_once() == 0


async def test_renewal_of_a_year_is_told_three_weeks_before_with_its_price(stripe_stack: PaymentStack) -> None:
    yearly, monthly = await stripe_stack.create_user(), await stripe_stack.create_user()
    async with admin_client(stripe_stack) as client:
        terms = {"id": "pro-yearly", "name": "Pro, yearly", "price": "299.00", "billing_interval": "year"}
        assert (await client.post("/admin/v1/plans", json=terms)).status_code == 201
        for user, plan in ((yearly, "pro-yearly"), (monthly, "pro")):
            body = {"user_id": str(user.id), "plan_id": plan}
            assert (await client.post("/admin/v1/subscriptions", json=body)).status_code == 201
    for user in (yearly, monthly):
        await told(stripe_stack, user)
        end = (await current_subscription(stripe_stack, user)).current_period_end
        expected = ["subscription.renews *"] if user is yearly else []
        await _worker(stripe_stack, end - timedelta(days=21, seconds=1)).run_once()
        assert await told(stripe_stack, user) == []
        for _ in range(2):
            await _worker(stripe_stack, end - timedelta(days=20)).run_once()
        assert await told(stripe_stack, user) == expected
    async with stripe_stack.database.read() as connection:
        (news,) = [each for kind, each in await list_notifications(connection, yearly.id) if kind.endswith("renews")]
    assert (news["price"], news["currency"], news["plan"]) == ("299.00", "USD", "Pro, yearly")


async def test_end_of_access_is_told_unless_it_was_just_chosen(stripe_stack: PaymentStack) -> None:
    early, late = await stripe_stack.create_user(), await stripe_stack.create_user()
    async with admin_client(stripe_stack) as client:
        for user in (early, late):
            body = {"user_id": str(user.id), "plan_id": "pro"}
            begun = (await client.post("/admin/v1/subscriptions", json=body)).json()
            await client.post(f"/admin/v1/subscriptions/{begun['id']}/cancel", json={"at_period_end": True})
            await told(stripe_stack, user)
    end = (await current_subscription(stripe_stack, late)).current_period_end
    async with stripe_stack.database.transaction() as connection:
        chosen = text(
            "UPDATE subscriptions SET canceled_at = current_period_end - interval '1 day' WHERE user_id = :id"
        )
        await connection.execute(chosen, {"id": late.id})
    for _ in range(2):
        await _worker(stripe_stack, end - timedelta(days=2)).run_once()
    assert await told(stripe_stack, early) == ["subscription.access_ends *"]
    assert await told(stripe_stack, late) == []


async def test_end_of_the_grace_is_told_before(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    fake_stripe.renew(subscription_id, succeeds=False)
    await deliver_all(stripe_stack, fake_stripe)
    found = await current_subscription(stripe_stack, user)
    end = (found.past_due_since or found.current_period_end) + GRACE
    await told(stripe_stack, user)
    await _worker(stripe_stack, end - timedelta(days=4)).run_once()
    assert await told(stripe_stack, user) == []
    await _worker(stripe_stack, end - timedelta(days=2)).run_once()
    assert await told(stripe_stack, user) == ["subscription.access_ends *"]
    async with stripe_stack.database.read() as connection:
        (news,) = [each for kind, each in await list_notifications(connection, user.id) if kind.endswith("access_ends")]
    assert (news["is_unpaid"], datetime.fromisoformat(news["access_ends_at"])) == (True, end)


async def test_other_price_is_told_to_those_who_will_pay_it(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    """Not to those whom Stripe goes on charging as before, nor for a change of wording."""
    own, billed = await stripe_stack.create_user(), await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, billed)
    async with admin_client(stripe_stack) as client:
        body = {"user_id": str(own.id), "plan_id": "pro"}
        assert (await client.post("/admin/v1/subscriptions", json=body)).status_code == 201
        end = (await current_subscription(stripe_stack, own)).current_period_end
        await told(stripe_stack, own)
        await told(stripe_stack, billed)
        await client.patch("/admin/v1/plans/pro", json={"description": "nicer text"})
        assert await told(stripe_stack, own) == []
        await client.patch("/admin/v1/plans/pro", json={"price": "39.99"})
    async with stripe_stack.database.read() as connection:
        (news,) = [each for kind, each in await list_notifications(connection, own.id) if "price" in kind]
    assert (news["previous_price"], news["price"]) == ("29.99", "39.99")
    assert datetime.fromisoformat(news["effective_at"]) == end
    assert await told(stripe_stack, own) == ["subscription.price_changed *"]
    assert await told(stripe_stack, billed) == []


async def test_each_end_of_access_in_a_period_is_told(stripe_stack: PaymentStack) -> None:
    user = await stripe_stack.create_user()
    async with admin_client(stripe_stack) as client:
        body = {"user_id": str(user.id), "plan_id": "pro"}
        begun = (await client.post("/admin/v1/subscriptions", json=body)).json()
        found = await current_subscription(stripe_stack, user)
        unpaid = "UPDATE subscriptions SET status = 'past_due', past_due_since = current_period_start WHERE id = :id"
        paid = "UPDATE subscriptions SET status = 'active', past_due_since = NULL WHERE id = :id"
        await told(stripe_stack, user)
        async with stripe_stack.database.transaction() as connection:
            await connection.execute(text(unpaid), {"id": found.id})
        await _worker(stripe_stack, found.current_period_start + GRACE - timedelta(days=2)).run_once()
        assert await told(stripe_stack, user) == ["subscription.access_ends *"]
        async with stripe_stack.database.transaction() as connection:
            await connection.execute(text(paid), {"id": found.id})
        await client.post(f"/admin/v1/subscriptions/{begun['id']}/cancel", json={"at_period_end": True})
        await told(stripe_stack, user)
    worker = _worker(stripe_stack, found.current_period_end - timedelta(days=2))
    await worker.run_once()
    assert await told(stripe_stack, user) == ["subscription.access_ends *"]
    assert await worker.run_once() == 0
