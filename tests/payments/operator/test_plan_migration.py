"""Whoever kept an older version of a plan is told of the move to the present one, and of another price ahead of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from gateway.ledger.accounts.users import User
from gateway.ledger.catalogue import plans
from gateway.ledger.subscriptions import renewals
from tests.ledger.make import list_notifications
from tests.payments.fake_stripe import FakeStripe
from tests.payments.operator.conftest import admin_client
from tests.payments.payment_stack import GRACE, PaymentStack
from tests.payments.test_stripe_lifecycle import current_subscription, subscribe_and_pay


async def ask(stack: PaymentStack, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    async with admin_client(stack) as client:
        answer = await client.request(method, f"/admin/v1{path}", json=body)
    assert answer.is_success, answer.text
    return answer.json()


async def started(stack: PaymentStack) -> User:
    """A subscriber to `pro` whom no provider bills."""
    user = await stack.create_user()
    await ask(stack, "POST", "/subscriptions", {"user_id": str(user.id), "plan_id": "pro"})
    return user


async def news(stack: PaymentStack, user: User) -> list[tuple[str, dict[str, Any]]]:
    async with stack.database.read() as connection:
        found = await list_notifications(connection, user.id)
    return [(kind, payload) for kind, payload in found if kind.endswith("_changed")]


async def keeping(stack: PaymentStack, **changes: Any) -> None:
    await ask(stack, "PATCH", "/plans/pro", {**changes, "subscribers": "keep"})


async def test_price_of_a_migration_is_told_ahead_and_begins_with_the_next_period(stripe_stack: PaymentStack) -> None:
    user = await started(stripe_stack)
    await keeping(stripe_stack, price="39.99", credits_per_period=2000)
    assert await news(stripe_stack, user) == []
    assert await ask(stripe_stack, "POST", "/plans/pro/migrate") == {"migrated": 1}
    found = await current_subscription(stripe_stack, user)
    ((kind, told),) = await news(stripe_stack, user)
    assert (kind, told["previous_price"], told["price"]) == ("subscription.price_changed", "29.99", "39.99")
    assert datetime.fromisoformat(told["effective_at"]) == found.current_period_end
    assert await ask(stripe_stack, "POST", "/plans/pro/migrate") == {"migrated": 0}
    invoice = await ask(stripe_stack, "POST", "/invoices", {"subscription_id": str(found.id)})
    assert invoice["subtotal"] == "29.99"
    async with stripe_stack.database.transaction() as connection:
        await renewals.advance(connection, found.id, now=found.current_period_end + timedelta(seconds=1), grace=GRACE)
    assert not (await current_subscription(stripe_stack, user)).keeps_version
    invoice = await ask(stripe_stack, "POST", "/invoices", {"subscription_id": str(found.id)})
    assert invoice["subtotal"] == "39.99"
    assert len(await news(stripe_stack, user)) == 1


async def test_other_terms_of_a_migration_hold_at_once_and_are_told_to_those_concerned(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    """Also to those whom Stripe bills; not to who follows the plan anyway, nor of a change of wording."""
    own, billed = await started(stripe_stack), await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, billed)
    await keeping(stripe_stack, requests_per_minute=7)
    follower = await started(stripe_stack)
    assert await ask(stripe_stack, "POST", "/plans/pro/migrate") == {"migrated": 2}
    for user in (own, billed):
        assert [kind for kind, _ in await news(stripe_stack, user)] == ["subscription.terms_changed"]
        assert not (await current_subscription(stripe_stack, user)).keeps_version
    assert await news(stripe_stack, follower) == []
    await keeping(stripe_stack, description="nicer text")
    assert await ask(stripe_stack, "POST", "/plans/pro/migrate") == {"migrated": 3}
    assert [len(await news(stripe_stack, user)) for user in (own, billed, follower)] == [1, 1, 0]


async def in_force(stack: PaymentStack, user: User) -> tuple[str, int | None, bool]:
    """The price, the calls a minute and whether `export` is granted, of who keeps a version."""
    found = await current_subscription(stack, user)
    assert found.keeps_version
    async with stack.database.read() as connection:
        kept = await plans.get_version(connection, found.plan_id, found.plan_version)
    assert kept is not None
    return str(kept.terms.price), kept.terms.requests_per_minute, "export" in kept.permissions


async def test_other_terms_reach_who_waits_for_another_price_and_leave_the_price_of_the_period(
    stripe_stack: PaymentStack,
) -> None:
    first = await started(stripe_stack)
    await ask(stripe_stack, "PATCH", "/plans/pro", {"price": "39.99"})
    second = await started(stripe_stack)
    await ask(stripe_stack, "PATCH", "/plans/pro", {"price": "49.99"})
    await ask(stripe_stack, "PATCH", "/plans/pro", {"requests_per_minute": 7})
    assert await in_force(stripe_stack, first) == ("29.99", 7, False)
    assert await in_force(stripe_stack, second) == ("39.99", 7, False)
    await ask(stripe_stack, "POST", "/permissions", {"name": "export"})
    async with admin_client(stripe_stack) as client:
        assert (await client.put("/admin/v1/plans/pro/permissions/export")).status_code == 204
    assert await in_force(stripe_stack, first) == ("29.99", 7, True)
    assert await in_force(stripe_stack, second) == ("39.99", 7, True)
    found = await current_subscription(stripe_stack, first)
    assert (await ask(stripe_stack, "POST", "/invoices", {"subscription_id": str(found.id)}))["subtotal"] == "29.99"
    async with stripe_stack.database.transaction() as connection:
        await renewals.advance(connection, found.id, now=found.current_period_end + timedelta(seconds=1), grace=GRACE)
    assert not (await current_subscription(stripe_stack, first)).keeps_version
    assert (await ask(stripe_stack, "POST", "/invoices", {"subscription_id": str(found.id)}))["subtotal"] == "49.99"


async def test_migration_gives_other_terms_at_once_and_another_price_with_the_next_period(
    stripe_stack: PaymentStack,
) -> None:
    user = await started(stripe_stack)
    await keeping(stripe_stack, price="39.99", requests_per_minute=7)
    for migrated in (1, 0):
        assert await ask(stripe_stack, "POST", "/plans/pro/migrate") == {"migrated": migrated}
        assert await in_force(stripe_stack, user) == ("29.99", 7, False)
    version = (await ask(stripe_stack, "GET", "/plans/pro"))["version"]
    await ask(stripe_stack, "POST", "/plans/pro/migrate")
    assert (await ask(stripe_stack, "GET", "/plans/pro"))["version"] == version, "nothing changed"
    await ask(stripe_stack, "PATCH", "/plans/pro", {"requests_per_minute": 9, "subscribers": "migrate"})
    assert not (await current_subscription(stripe_stack, user)).keeps_version, "an operator said at once"


async def test_price_that_stripe_goes_on_charging_is_no_news(
    stripe_stack: PaymentStack, fake_stripe: FakeStripe
) -> None:
    user = await stripe_stack.create_user()
    await subscribe_and_pay(stripe_stack, fake_stripe, user)
    await keeping(stripe_stack, price="39.99")
    assert await ask(stripe_stack, "POST", "/plans/pro/migrate") == {"migrated": 1}
    assert await news(stripe_stack, user) == []


async def test_change_for_everyone_gives_who_kept_a_version_its_terms_at_once_and_its_price_with_the_next_period(
    stripe_stack: PaymentStack,
) -> None:
    first = await started(stripe_stack)
    await keeping(stripe_stack, price="39.99")
    second = await started(stripe_stack)
    await keeping(stripe_stack, price="49.99")
    follower = await started(stripe_stack)
    for _ in range(2):
        await ask(stripe_stack, "PATCH", "/plans/pro", {"requests_per_minute": 7})
    assert await in_force(stripe_stack, first) == ("29.99", 7, False)
    assert await in_force(stripe_stack, second) == ("39.99", 7, False)
    assert not (await current_subscription(stripe_stack, follower)).keeps_version
    found = await current_subscription(stripe_stack, first)
    ((kind, told),) = await news(stripe_stack, first)
    assert (kind, told["previous_price"], told["price"]) == ("subscription.price_changed", "29.99", "49.99")
    assert datetime.fromisoformat(told["effective_at"]) == found.current_period_end
    assert [told["previous_price"] for _, told in await news(stripe_stack, second)] == ["39.99"]
    assert await news(stripe_stack, follower) == []
    assert (await ask(stripe_stack, "POST", "/invoices", {"subscription_id": str(found.id)}))["subtotal"] == "29.99"
    async with stripe_stack.database.transaction() as connection:
        await renewals.advance(connection, found.id, now=found.current_period_end + timedelta(seconds=1), grace=GRACE)
    assert not (await current_subscription(stripe_stack, first)).keeps_version
    assert (await ask(stripe_stack, "POST", "/invoices", {"subscription_id": str(found.id)}))["subtotal"] == "49.99"


async def test_who_waits_for_another_price_is_told_the_price_that_they_have(stripe_stack: PaymentStack) -> None:
    first = await started(stripe_stack)
    await ask(stripe_stack, "PATCH", "/plans/pro", {"price": "39.99"})
    second = await started(stripe_stack)
    await ask(stripe_stack, "PATCH", "/plans/pro", {"price": "49.99"})
    await ask(stripe_stack, "PATCH", "/plans/pro", {"price": "29.99"})
    for user, told in (
        (first, {("29.99", "39.99"), ("29.99", "49.99"), ("49.99", "29.99")}),
        (second, {("39.99", "49.99"), ("39.99", "29.99")}),
    ):
        assert {(each["previous_price"], each["price"]) for _, each in await news(stripe_stack, user)} == told


async def test_price_for_everyone_at_once_is_told_with_the_price_that_each_had(stripe_stack: PaymentStack) -> None:
    keeper = await started(stripe_stack)
    await keeping(stripe_stack, price="39.99")
    waiting = await started(stripe_stack)
    await ask(stripe_stack, "PATCH", "/plans/pro", {"price": "49.99"})
    follower = await started(stripe_stack)
    for price in ("59.99", "69.99"):
        await ask(stripe_stack, "PATCH", "/plans/pro", {"price": price, "subscribers": "migrate"})
    for user, had, known in ((keeper, "29.99", 0), (waiting, "39.99", 1), (follower, "49.99", 0)):
        begins = (await current_subscription(stripe_stack, user)).current_period_start
        told = [each for _, each in await news(stripe_stack, user) if each["price"] != "49.99"]
        assert {(each["previous_price"], each["price"]) for each in told} == {(had, "59.99"), ("59.99", "69.99")}
        assert {datetime.fromisoformat(each["effective_at"]) for each in told} == {begins}
        assert len(await news(stripe_stack, user)) == 2 + known


async def test_kept_price_that_ends_with_other_terms_at_once_is_told(stripe_stack: PaymentStack) -> None:
    keeper = await started(stripe_stack)
    await keeping(stripe_stack, price="39.99")
    follower = await started(stripe_stack)
    await ask(stripe_stack, "PATCH", "/plans/pro", {"requests_per_minute": 7, "subscribers": "migrate"})
    assert [told["previous_price"] for _, told in await news(stripe_stack, keeper)] == ["29.99"]
    await keeping(stripe_stack, price="49.99")
    await ask(stripe_stack, "PATCH", "/plans/pro", {"price": "39.99", "subscribers": "migrate"})
    assert len(await news(stripe_stack, keeper)) == 1, "it is the price that they kept"
    assert await news(stripe_stack, follower) == []
