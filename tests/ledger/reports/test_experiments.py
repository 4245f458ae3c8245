"""PostgreSQL shares accounts out as the policy does, and counts what each variant brought."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.reports import experiments
from policies.experiments.assignment import Arms, Variant, assign
from policies.experiments.comparison import Metric, Outcome, Sums, compare
from tests.support.sampling import IS_FULL, measured

START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(days=30)
ARMS = Arms("salt", (Variant("a", 2, ("pro",)), Variant("b", 1, ("pro-2",)), Variant("c", 1, ("pro-3",))))
ACCOUNTS = 10_000

# Each account by its number: a third came before the start; some had paid by then, and some pay meanwhile or later.
_USERS = text("""
    INSERT INTO users (id, email, created_at)
    SELECT md5('user ' || n)::uuid, n || '@example.com',
           CAST(:start AS timestamptz) + CASE WHEN n % 3 = 0 THEN -interval '9 days' ELSE interval '1 day' END
      FROM generate_series(1, :accounts) n
""")
_PAYMENTS = text("""
    INSERT INTO payment_transactions (id, user_id, provider, transaction_type, status, amount, currency, processed_at)
    SELECT gen_random_uuid(), md5('user ' || n)::uuid, 'stripe', 'subscription',
           CASE WHEN n % 17 = 0 THEN 'failed' ELSE 'completed' END, 9.99 + n % 4,
           CASE n % 2 WHEN 0 THEN 'USD' ELSE 'EUR' END,
           CAST(:start AS timestamptz) + CASE n % 5 WHEN 0 THEN -interval '2 days' WHEN 1 THEN interval '40 days'
                                              ELSE interval '3 days' END
      FROM generate_series(1, :accounts) n WHERE n % 7 = 0
""")
_USAGE = text("""
    INSERT INTO credit_ledger (user_id, kind, amount, balance_after, actor, created_at)
    SELECT md5('user ' || n)::uuid, kind, -(n % 50 + 1), 0, 'worker:usage', CAST(:start AS timestamptz) + at
      FROM generate_series(1, :accounts) n,
           (VALUES ('usage', interval '2 days'), ('usage', interval '3 days'), ('usage', -interval '1 day'),
                   ('usage', interval '31 days'), ('expiry', interval '2 days')) AS entry (kind, at)
     WHERE n % 11 = 0
""")


async def test_variants_have_what_their_accounts_have(connection: AsyncConnection) -> None:
    """Over 10,000 accounts, counted once more by the policy and in Python."""
    for statement in (_USERS, _PAYMENTS, _USAGE):
        await connection.execute(statement, {"start": START, "accounts": ACCOUNTS})
    ids = await connection.execute(
        text("SELECT n, md5('user ' || n)::uuid FROM generate_series(1, :n) n"), {"n": ACCOUNTS}
    )
    expected = {variant.name: [0, 0, 0, 0, 0] for variant in ARMS.variants}
    money: dict[tuple[str, str], list[Decimal]] = {}
    for number, user_id in ids:
        has_payment = number % 7 == 0 and number % 17 != 0
        if has_payment and number % 5 == 0:
            continue  # who had paid before the start
        name = assign(ARMS, user_id).name
        sums = expected[name]
        sums[0] += 1
        sums[1] += number % 3 != 0
        if has_payment and number % 5 != 1:
            sums[2] += 1
            money.setdefault((name, "USD" if number % 2 == 0 else "EUR"), []).append(Decimal("9.99") + number % 4)
        if number % 11 == 0:
            used = 2 * (number % 50 + 1)
            sums[3] += used
            sums[4] += used * used
    found = await experiments.outcomes(connection, ARMS, since=START, until=END)
    assert list(found) == ["a", "b", "c"]
    for name, (accounts, sign_ups, paid, used, of_used) in expected.items():
        revenue = {currency: _sums(amounts) for (of, currency), amounts in money.items() if of == name}
        assert found[name] == Outcome(
            accounts=accounts,
            sign_ups=sign_ups,
            paid=paid,
            credits_used=Sums(Decimal(used), Decimal(of_used)),
            revenue=revenue,
        )
    compared = compare(found, {variant.name: variant.weight for variant in ARMS.variants})
    assert len(compared) == 2 * 5  # sign-ups, conversion, usage, and revenue in two currencies
    assert not any(each.is_significant for each in compared)


async def test_experiment_without_accounts_has_empty_variants(connection: AsyncConnection) -> None:
    found = await experiments.outcomes(connection, ARMS, since=START, until=END)
    assert found == {"a": Outcome(), "b": Outcome(), "c": Outcome()}
    assert all(each.adjusted_p_value is None for each in compare(found, {"a": 2, "b": 1, "c": 1}))


def _sums(amounts: list[Decimal]) -> Sums:
    return Sums(sum(amounts, Decimal(0)), sum((amount * amount for amount in amounts), Decimal(0)))


@pytest.mark.skipif(not IS_FULL, reason="100 reports over 10,000 accounts; GATEWAY_TEST_SCALE=full")
async def test_variants_that_are_alike_do_not_seem_to_differ_in_95_of_100_reports(connection: AsyncConnection) -> None:
    """`tests/policies/experiments/test_simulations.py` does the same in memory, and says why 95."""
    await _simulate(connection)
    two = tuple(Variant(name, 1, (name,)) for name in ("control", "other"))
    wrong = 0
    for run in range(100):
        found = await experiments.outcomes(connection, Arms(f"run {run}", two), since=START, until=END)
        wrong += any(each.is_significant for each in compare(found, {"control": 1, "other": 1}))
    measured.append(f"A/A over {ACCOUNTS:,} accounts: {100 - wrong} of 100 reports find no difference")
    assert wrong <= 5


async def test_true_difference_is_found(connection: AsyncConnection) -> None:
    """Of the accounts of the variant half as many again pay."""
    await _simulate(connection)
    arms = Arms("true", tuple(Variant(name, 1, (name,)) for name in ("control", "other")))
    rows = await connection.execute(text("SELECT id FROM users"))
    others = [row.id for row in rows if assign(arms, row.id).name == "other"]
    await connection.execute(_PAY_MORE, {"ids": others, "at": START + timedelta(days=5)})
    found = await experiments.outcomes(connection, arms, since=START, until=END)
    different = {each.metric for each in compare(found, {"control": 1, "other": 1}) if each.is_significant}
    assert different == {Metric.CONVERSION, Metric.REVENUE}


async def _simulate(connection: AsyncConnection) -> None:
    """Accounts of which 6 in 100 pay, by no rule that a salt could meet."""
    for statement in (_SIMULATED_USERS, _SIMULATED_PAYMENTS, _SIMULATED_USAGE):
        await connection.execute(statement, {"start": START, "accounts": ACCOUNTS})


_SIMULATED_USERS = text("""
    INSERT INTO users (id, email, created_at)
    SELECT md5('user ' || n)::uuid, n || '@example.com', CAST(:start AS timestamptz) + interval '1 hour'
      FROM generate_series(1, :accounts) n
""")
_SIMULATED_PAYMENTS = text("""
    INSERT INTO payment_transactions (id, user_id, provider, transaction_type, status, amount, currency, processed_at)
    SELECT gen_random_uuid(), md5('user ' || n)::uuid, 'stripe', 'subscription', 'completed',
           (ARRAY[9.99, 29.99, 29.99, 99.99])[1 + abs(hashint4extended(CAST(n AS integer), 5)) % 4], 'USD',
           CAST(:start AS timestamptz) + interval '1 day'
      FROM generate_series(1, :accounts) n WHERE abs(hashint4extended(CAST(n AS integer), 7)) % 100 < 6
""")
_SIMULATED_USAGE = text("""
    INSERT INTO credit_ledger (user_id, kind, amount, balance_after, actor, created_at)
    SELECT md5('user ' || n)::uuid, 'usage',
           -ceil(exp((abs(hashint4extended(CAST(n AS integer), 9)) % 1000) / 150.0))::bigint, 0, 'worker',
           CAST(:start AS timestamptz) + interval '2 days'
      FROM generate_series(1, :accounts) n
""")
_PAY_MORE = text("""
    INSERT INTO payment_transactions (id, user_id, provider, transaction_type, status, amount, currency, processed_at)
    SELECT gen_random_uuid(), id, 'stripe', 'subscription', 'completed', 29.99, 'USD', :at
      FROM unnest(CAST(:ids AS uuid[])) id WHERE abs(hashtextextended(id::text, 3)) % 100 < 3
""")
