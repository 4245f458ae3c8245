"""An upgrade whose card asks for a confirmation (3-D Secure) gives its page, and takes effect when it is paid."""

from __future__ import annotations

from gateway.ledger.accounts.users import User
from tests.payments.fake_stripe import FakeStripe
from tests.payments.payment_stack import PaymentStack
from tests.payments.stripe.test_scheduled_changes import ask
from tests.payments.test_stripe_lifecycle import current_subscription, deliver_all, subscribe_and_pay


async def asked_to_confirm(stack: PaymentStack, fake_stripe: FakeStripe) -> tuple[User, str, str]:
    """A subscriber to `basic` who asked for `pro`; gives the ids of subscription and invoice."""
    user = await stack.create_user()
    subscription_id = await subscribe_and_pay(stack, fake_stripe, user, plan="basic")
    fake_stripe.cards[fake_stripe.objects[subscription_id]["customer"]] = "3ds"
    answer = await ask(stack, user, "change", plan_id="pro")
    assert (answer.status_code, answer.json()["plan_id"]) == (200, "basic")
    assert answer.json()["confirmation_url"] == "https://invoice.test"
    await deliver_all(stack, fake_stripe)
    assert (await current_subscription(stack, user)).plan_id == "basic"
    assert await stack.balance(user) == 100
    return user, subscription_id, fake_stripe.objects[subscription_id]["latest_invoice"]


async def test_plan_changes_once_the_payment_is_confirmed(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user, _, invoice_id = await asked_to_confirm(stripe_stack, fake_stripe)
    fake_stripe.changes.confirm(invoice_id)
    await deliver_all(stripe_stack, fake_stripe)
    found = await current_subscription(stripe_stack, user)
    assert (found.plan_id, found.status) == ("pro", "active")
    assert 990 <= await stripe_stack.balance(user) <= 1000
    assert sorted((str(row.amount), row.status) for row in await stripe_stack.payments(user)) == [
        ("20.00", "completed"),
        ("9.99", "completed"),
    ]


async def test_repeated_wish_gives_the_same_page_and_makes_no_other_invoice(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user, subscription_id, invoice_id = await asked_to_confirm(stripe_stack, fake_stripe)
    again = await ask(stripe_stack, user, "change", plan_id="pro")
    assert again.json()["confirmation_url"] == "https://invoice.test"
    assert fake_stripe.objects[subscription_id]["latest_invoice"] == invoice_id


async def test_abandoned_confirmation_leaves_the_plan_as_it_was(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user, subscription_id, _ = await asked_to_confirm(stripe_stack, fake_stripe)
    fake_stripe.changes.expire_pending(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    found = await current_subscription(stripe_stack, user)
    assert (found.plan_id, found.status) == ("basic", "active")
    assert await stripe_stack.balance(user) == 100
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert (await stripe_stack.billing_state(user)).granted == 200


async def test_renewal_is_served_while_an_upgrade_waits_to_be_confirmed(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    """The latest invoice is that of the upgrade, and says nothing about the period."""
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    fake_stripe.renew(subscription_id)
    fake_stripe.new_events()  # none of them arrives
    fake_stripe.cards[fake_stripe.objects[subscription_id]["customer"]] = "3ds"
    await stripe_stack.process_all()
    await ask(stripe_stack, user, "change", plan_id="pro")
    await deliver_all(stripe_stack, fake_stripe)
    found = await current_subscription(stripe_stack, user)
    assert (found.status, (await stripe_stack.billing_state(user)).granted) == ("active", 200)


async def test_declined_upgrade_is_refused_and_another_card_is_not_told_of_it(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    customer_id = fake_stripe.objects[subscription_id]["customer"]
    fake_stripe.cards[customer_id] = "declined"
    refused = await ask(stripe_stack, user, "change", plan_id="pro")
    assert (refused.status_code, refused.json()["code"]) == (409, "payment_refused")
    assert "Your card was declined." in refused.json()["detail"]
    assert fake_stripe.objects[fake_stripe.objects[subscription_id]["latest_invoice"]]["status"] == "void"
    await deliver_all(stripe_stack, fake_stripe)
    assert (await current_subscription(stripe_stack, user)).plan_id == "basic"
    fake_stripe.cards[customer_id] = "good"
    answer = await ask(stripe_stack, user, "change", plan_id="pro")
    assert (answer.status_code, answer.json()["plan_id"]) == (200, "pro")
