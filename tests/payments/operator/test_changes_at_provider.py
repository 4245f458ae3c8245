"""An operator ends, changes and pauses what a provider bills; whatever fails on the way, both agree in the end."""

from __future__ import annotations

import re
from itertools import chain, repeat
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from gateway.ledger.accounts import users
from gateway.ledger.accounts.users import User
from gateway.ledger.payments.provider_instructions import _DUE
from gateway.web.console.app import build_console
from tests.api.conftest import TOKEN
from tests.payments.fake_lemon_squeezy import FakeLemonSqueezy
from tests.payments.fake_stripe import FakeStripe
from tests.payments.operator.conftest import admin_client, admin_of, call, instruct
from tests.payments.payment_stack import PaymentStack
from tests.payments.test_lemon_squeezy_lifecycle import deliver_all as deliver_all_of_lemon_squeezy
from tests.payments.test_lemon_squeezy_lifecycle import subscribe_and_pay as lemon_squeezy_subscription
from tests.payments.test_price_changes import change_terms, raise_price
from tests.payments.test_stripe_lifecycle import current_subscription, deliver_all, subscribe_and_pay
from tests.web.console.operators import ORIGIN, Browser


async def audited(stack: PaymentStack, user: User) -> list[tuple[str, str | None]]:
    found = await current_subscription(stack, user)
    async with admin_client(stack) as client:
        rows = (await client.get("/admin/v1/audit-log", params={"entity_id": str(found.id)})).json()["data"]
    return [(row["action"], row["reason"]) for row in rows]


def fail_at_once(stack: PaymentStack) -> None:
    stack.provider._client._requestor._options.max_network_retries = 0  # type: ignore[attr-defined] # or it waits


async def test_plan_that_an_operator_changes_is_changed_and_charged_at_the_provider(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    answer = await call(stripe_stack, user, "change", plan_id="pro", reason="asked by phone")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["plan_id"], answer.json()["confirmation_url"]) == ("pro", None)
    (item,) = fake_stripe.objects[subscription_id]["items"]["data"]
    assert item["price"]["id"] == "price_pro"
    await deliver_all(stripe_stack, fake_stripe)
    assert sorted(str(row.amount) for row in await stripe_stack.payments(user)) == ["20.00", "9.99"]
    assert 990 <= await stripe_stack.balance(user) <= 1000
    assert (await audited(stripe_stack, user))[0] == ("subscriptions.change", "asked by phone")


async def test_change_of_an_operator_with_the_period_is_scheduled_at_the_provider(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    answer = await call(stripe_stack, user, "change", plan_id="basic", at_period_end=True)
    assert (answer.json()["plan_id"], answer.json()["next_plan_id"]) == ("pro", "basic"), answer.text
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    assert (await current_subscription(stripe_stack, user)).plan_id == "basic"
    assert sorted(str(row.amount) for row in await stripe_stack.payments(user)) == ["29.99", "9.99"]


async def test_seats_that_an_operator_changes_are_those_of_the_provider(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    refused = await call(stripe_stack, user, "change", quantity=3)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "quantity"), refused.text
    async with stripe_stack.database.transaction() as connection:
        await connection.execute(text("UPDATE subscription_plans SET pricing_model = 'per_seat' WHERE id = 'basic'"))
        await connection.execute(text("UPDATE subscription_plans SET is_active = false WHERE id = 'basic'"))
    answer = await call(stripe_stack, user, "change", quantity=3)
    assert (answer.status_code, answer.json()["quantity"]) == (200, 3), answer.text
    (item,) = fake_stripe.objects[subscription_id]["items"]["data"]
    assert item["quantity"] == 3


@pytest.mark.parametrize(("body", "status"), [({"plan_id": "free"}, 409), ({"plan_id": "none"}, 404), ({}, 422)])
async def test_change_that_no_provider_can_make_is_refused_before_it_is_asked(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, body: dict[str, Any], status: int
) -> None:
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    asked = len(fake_stripe.requests)
    answer = await call(stripe_stack, user, "change", **body)
    assert (answer.status_code, len(fake_stripe.requests)) == (status, asked), answer.text


async def test_change_that_the_customer_must_confirm_gives_the_page_and_changes_nothing_until_then(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    fake_stripe.cards[fake_stripe.objects[subscription_id]["customer"]] = "3ds"
    answer = await call(stripe_stack, user, "change", plan_id="pro")
    assert (answer.json()["plan_id"], answer.json()["confirmation_url"]) == ("basic", "https://invoice.test")
    fake_stripe.changes.confirm(fake_stripe.objects[subscription_id]["latest_invoice"])
    await deliver_all(stripe_stack, fake_stripe)
    assert (await current_subscription(stripe_stack, user)).plan_id == "pro"


async def test_console_says_where_the_customer_confirms_the_payment(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    fake_stripe.cards[fake_stripe.objects[subscription_id]["customer"]] = "3ds"
    transport = httpx.ASGITransport(build_console(admin_of(stripe_stack), secret=TOKEN))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        browser = Browser(client)
        await browser.sign_in(TOKEN)
        path = f"/accounts/{user.id}"
        sent = await browser.submit(path, f"{path}/plan", plan_id="pro", reason="asked", once="one")
        assert "has confirmed the payment at https://invoice.test" in await browser.follow(sent)


@pytest.mark.parametrize("card", ["declined", None])
async def test_change_that_fails_at_the_provider_changes_nothing(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, card: str | None
) -> None:
    """The card is declined, or (None) Stripe is down."""
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    before = await stripe_stack.billing_state(user)
    fail_at_once(stripe_stack)
    if card is None:
        fake_stripe.down = True
    else:
        fake_stripe.cards[fake_stripe.objects[subscription_id]["customer"]] = card
    answer = await call(stripe_stack, user, "change", plan_id="pro")
    assert answer.status_code == (503 if card is None else 409), answer.text
    fake_stripe.down = False
    await deliver_all(stripe_stack, fake_stripe)
    after = await stripe_stack.billing_state(user)
    assert (after.plan_id, after.balance, after.status) == (before.plan_id, before.balance, before.status)


async def test_change_whose_answer_is_lost_arrives_with_the_webhook(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    """Stripe made the change; then the gateway could not read what became of it."""
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    fail_at_once(stripe_stack)
    change = stripe_stack.provider.change_plan

    async def change_then_fail(*given: Any) -> str | None:
        url = await change(*given)
        fake_stripe.down = True
        return url

    stripe_stack.provider.change_plan = change_then_fail  # type: ignore[assignment] # the moment between two calls
    answer = await call(stripe_stack, user, "change", plan_id="pro")
    assert (answer.status_code, answer.json()["code"]) == (503, "payment_unavailable"), answer.text
    fake_stripe.down = False
    await deliver_all(stripe_stack, fake_stripe)
    assert (await current_subscription(stripe_stack, user)).plan_id == "pro"
    assert sorted(str(row.amount) for row in await stripe_stack.payments(user)) == ["20.00", "9.99"]


async def test_paused_subscription_is_charged_nothing_until_it_is_resumed(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    remote = fake_stripe.objects[subscription_id]
    fail_at_once(stripe_stack)
    fake_stripe.down = True
    paused = (await call(stripe_stack, user, "pause", reason="holidays")).json()
    assert (paused["status"], paused["paused_here"], paused["payments_paused"]) == ("paused", True, False)
    await instruct(stripe_stack)
    fake_stripe.down = False
    await instruct(stripe_stack)
    assert remote["pause_collection"] == {"behavior": "void"}
    assert (await current_subscription(stripe_stack, user)).payments_paused
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    state = await stripe_stack.billing_state(user)
    assert (state.status, state.granted) == ("paused", 1000)
    assert [row[1] for row in state.payments if row[1] == "completed"] == ["completed"]
    resumed = (await call(stripe_stack, user, "resume")).json()
    assert (resumed["status"], resumed["paused_here"], resumed["payments_paused"]) == ("active", False, True)
    await instruct(stripe_stack)
    assert remote["pause_collection"] is None
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    state = await stripe_stack.billing_state(user)
    assert (state.status, state.granted) == ("active", 2000)
    assert (await audited(stripe_stack, user))[1] == ("subscriptions.pause", "holidays")
    asked = len(fake_stripe.requests)
    await instruct(stripe_stack)
    assert len(fake_stripe.requests) == asked


async def test_payment_that_overtook_the_pause_gives_its_credits_once(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await call(stripe_stack, user, "pause")
    fake_stripe.renew(subscription_id)
    await deliver_all(stripe_stack, fake_stripe)
    await instruct(stripe_stack)
    state = await stripe_stack.billing_state(user)
    assert (state.status, state.granted, len(state.payments)) == ("paused", 2000, 2)
    await call(stripe_stack, user, "resume")
    await instruct(stripe_stack)
    state = await stripe_stack.billing_state(user)
    assert (state.status, state.granted) == ("active", 2000)


async def test_pause_of_an_operator_outlasts_a_suspension_of_the_account(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    remote = fake_stripe.objects[await subscribe_and_pay(stripe_stack, fake_stripe, user)]
    await call(stripe_stack, user, "pause")
    for change in (users.suspend, users.reactivate):
        async with stripe_stack.database.transaction() as connection:
            await change(connection, user.id)
        await instruct(stripe_stack)
        assert remote["pause_collection"] == {"behavior": "void"}
    await call(stripe_stack, user, "resume")
    await instruct(stripe_stack)
    assert remote["pause_collection"] is None


async def test_paused_subscription_ends_as_any_other(stripe_stack: PaymentStack, fake_stripe: FakeStripe) -> None:
    user = await stripe_stack.create_user()
    remote = fake_stripe.objects[await subscribe_and_pay(stripe_stack, fake_stripe, user)]
    await call(stripe_stack, user, "pause")
    await instruct(stripe_stack)
    again = await call(stripe_stack, user, "pause")
    assert again.status_code == 409, again.text
    ended = await call(stripe_stack, user, "cancel", at_period_end=False)
    assert (ended.status_code, ended.json()["status"], remote["status"]) == (200, "canceled", "canceled"), ended.text
    resumed = await call(stripe_stack, user, "resume")
    assert resumed.status_code == 409, resumed.text


async def test_pause_is_carried_to_lemon_squeezy_and_one_made_there_is_resumed_there(
    lemon_squeezy_stack: PaymentStack, fake_lemon_squeezy: FakeLemonSqueezy
) -> None:
    user = await lemon_squeezy_stack.create_user()
    remote = await lemon_squeezy_subscription(lemon_squeezy_stack, fake_lemon_squeezy, user)
    for verb, pause, status in (("pause", {"mode": "void"}, "paused"), ("resume", None, "active")):
        answer = await call(lemon_squeezy_stack, user, verb)
        assert (answer.status_code, answer.json()["status"]) == (200, status), answer.text
        await instruct(lemon_squeezy_stack)
        assert remote["attributes"]["pause"] == pause
        await deliver_all_of_lemon_squeezy(lemon_squeezy_stack, fake_lemon_squeezy)
        assert (await current_subscription(lemon_squeezy_stack, user)).status == status
    remote["attributes"].update(status="paused", pause={"mode": "void"})
    fake_lemon_squeezy._emit("subscription_paused", remote, remote["_custom"])
    await deliver_all_of_lemon_squeezy(lemon_squeezy_stack, fake_lemon_squeezy)
    answer = await call(lemon_squeezy_stack, user, "resume")
    assert answer.status_code == 409, answer.text
    assert "Lemon Squeezy has paused it" in answer.json()["detail"]


async def test_instructions_are_found_without_reading_all_subscriptions(stripe_stack: PaymentStack) -> None:
    """Among 4,000, where a quarter of the accounts are deleted and a few are suspended."""
    async with stripe_stack.database.transaction() as connection:
        for statement in (_ACCOUNTS, _DELETED, _SUBSCRIPTIONS, _SUSPENDED, "ANALYZE users, subscriptions"):
            await connection.execute(text(statement))
        asked = text(f"EXPLAIN {_DUE.text}")
        plan = "\n".join(await connection.scalars(asked, {"provider": "stripe", "limit": 20}))
        await connection.rollback()
    assert "Seq Scan" not in plan, plan
    read_by = set(re.findall(r"Index (?:Only )?Scan using (\w+) on subscriptions", plan))
    assert read_by == {"ix_subscriptions_marked", "uq_subscriptions_current"}, plan


_ACCOUNTS = """
    INSERT INTO users (id, email)
    SELECT gen_random_uuid(), 'of-' || n || '@example.com' FROM generate_series(1, 4000) n
"""
_DELETED = (
    "UPDATE users SET deleted_at = now(), status = 'suspended' WHERE email LIKE 'of-%1@%' OR email LIKE 'of-%2@%'"
)
_SUSPENDED = "UPDATE users SET status = 'suspended' WHERE email LIKE 'of-%00@%'"
_SUBSCRIPTIONS = """
    INSERT INTO subscriptions (id, user_id, plan_id, plan_version, status, provider, provider_subscription_id,
                               current_period_start, current_period_end, period_anchor)
    SELECT gen_random_uuid(), id, 'pro', 1, CASE WHEN deleted_at IS NULL THEN 'active' ELSE 'canceled' END, 'stripe',
           'sub_' || id, now(), now() + interval '1 month', now()
      FROM users WHERE email LIKE 'of-%'
"""


@pytest.mark.parametrize("at_period_end", [True, False])
async def test_operator_cancels_a_subscription_at_its_provider(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, at_period_end: bool
) -> None:
    user = await stripe_stack.create_user()
    remote = fake_stripe.objects[await subscribe_and_pay(stripe_stack, fake_stripe, user)]
    found = await current_subscription(stripe_stack, user)
    path = f"/admin/v1/subscriptions/{found.id}"
    async with admin_client(stripe_stack) as client:
        body = {"at_period_end": at_period_end, "reason": "fraud"}
        answer = await client.post(f"{path}/cancel", json=body)
        assert answer.status_code == 200, answer.text
        shown = answer.json()
        expected = ("active", True) if at_period_end else ("canceled", False)
        assert (remote["status"], remote["cancel_at_period_end"]) == expected
        assert (shown["status"], shown["cancel_at_period_end"]) == expected
        audit = (await client.get("/admin/v1/audit-log", params={"entity_id": str(found.id)})).json()["data"][0]
        assert (audit["action"], audit["reason"]) == ("subscriptions.cancel", "fraud")
        answer = await client.post(f"{path}/undo-cancel")
        assert answer.status_code == (200 if at_period_end else 409), answer.text
        if at_period_end:
            assert (remote["cancel_at_period_end"], answer.json()["cancel_at_period_end"]) == (False, False)


async def test_operator_cancels_a_checkout_that_nobody_paid(stripe_stack: PaymentStack) -> None:
    user = await stripe_stack.create_user()
    await stripe_stack.subscribe(user)
    found = await current_subscription(stripe_stack, user)
    async with admin_client(stripe_stack) as client:
        answer = await client.post(f"/admin/v1/subscriptions/{found.id}/cancel", json={"at_period_end": False})
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled"), answer.text


@pytest.mark.parametrize("named", ["pro", "Pro"])
async def test_seats_that_an_operator_changes_keep_the_former_price_by_id_and_by_name(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, named: str
) -> None:
    await change_terms(stripe_stack, "pro", pricing_model="per_seat")
    user = await stripe_stack.create_user()
    subscription_id = await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await raise_price(stripe_stack, fake_stripe, subscribers="keep")
    answer = await call(stripe_stack, user, "change", plan_id=named, quantity=3)
    assert answer.status_code == 200, answer.text
    (item,) = fake_stripe.objects[subscription_id]["items"]["data"]
    assert (item["price"]["id"], item["quantity"]) == ("price_pro", 3)


@pytest.mark.parametrize(
    ("verb", "body", "reads_before"),
    [("change", {"plan_id": "pro"}, 1), ("cancel", {"at_period_end": True}, 1), ("undo-cancel", None, 0)],
)
async def test_change_whose_outcome_nobody_knows_is_not_made_again_under_its_idempotency_key(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe, verb: str, body: dict[str, Any] | None, reads_before: int
) -> None:
    fail_at_once(stripe_stack)
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user, plan="basic")
    found = await current_subscription(stripe_stack, user)
    path, headers = f"/admin/v1/subscriptions/{found.id}/{verb}", {"idempotency-key": f"{verb}-{user.id}"}
    async with admin_client(stripe_stack) as client:
        if verb == "undo-cancel":
            assert (await client.post(f"/admin/v1/subscriptions/{found.id}/cancel")).status_code == 200
        fake_stripe.faults.plan = chain(repeat(None, reads_before), ["cut"], repeat("lost"))
        answer = await client.post(path, json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "payment_unavailable"), answer.text
        fake_stripe.faults.plan = iter(())
        made = len(fake_stripe.requests)
        again = await client.post(path, json=body, headers=headers)
    assert (again.status_code, again.json()["code"]) == (409, "idempotency_in_progress"), again.text
    assert len(fake_stripe.requests) == made
