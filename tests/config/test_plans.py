from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from gateway.config import ConfigError, PlanSpec, TierSpec, default_plans, load

SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}


def plans(tmp_path: Path, *entries: str) -> tuple[PlanSpec, ...]:
    file = tmp_path / "gateway.yaml"
    file.write_text("plans:\n" + "".join(f"  - {entry}\n" for entry in entries), "utf-8")
    return load(file, SECRETS, persist_secrets=False).plans


def test_default_plans_are_those_of_the_contract() -> None:
    table = [
        (
            p.id,
            p.price,
            p.currency,
            p.billing_interval,
            p.credits_per_period,
            p.requests_per_minute,
            p.requests_per_hour,
        )
        for p in default_plans()
    ]

    assert table == [
        ("free", Decimal("0"), "USD", "month", 10, 5, 50),
        ("basic", Decimal("9.99"), "USD", "month", 100, 20, 500),
        ("pro", Decimal("29.99"), "USD", "month", 1000, 50, 2000),
        ("enterprise", Decimal("99.99"), "USD", "month", 10000, 100, 10000),
    ]


def test_each_default_plan_has_the_features_of_the_one_before() -> None:
    free, basic, pro, enterprise = (set(plan.features) for plan in default_plans())

    assert free == {"analysis", "ai_generation", "csv_upload"}
    assert basic - free == {"enhanced_generation", "email_support"}
    assert pro - basic == {"priority_support", "custom_templates", "api_access"}
    assert enterprise - pro == {"white_label", "custom_integrations", "unlimited_access"}
    assert free < basic < pro < enterprise


def test_plan_needs_only_id_name_and_price(tmp_path: Path) -> None:
    assert plans(tmp_path, "{id: mini, name: Mini, price: 9.90}") == (
        PlanSpec(id="mini", name="Mini", price=Decimal("9.90")),
    )


def test_plans_may_be_an_empty_list(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("plans: []")

    assert load(file, SECRETS, persist_secrets=False).plans == ()


def test_features_are_a_list_or_a_map(tmp_path: Path) -> None:
    listed, mapped = plans(
        tmp_path,
        "{id: a, name: a, price: 0, features: [x, y]}",
        "{id: b, name: b, price: 0, features: {x: true, y: false, seats: 5, tone: warm}}",
    )

    assert listed.features == {"x": True, "y": True}
    assert mapped.features == {"x": True, "y": False, "seats": 5, "tone": "warm"}


def test_tiers_rise_to_an_open_end(tmp_path: Path) -> None:
    (plan,) = plans(
        tmp_path,
        "{id: a, name: a, price: 0, pricing_model: tiered,"
        " tiers: [{up_to: 10, unit_price: 0.5, flat_price: 1}, {unit_price: 0.25}]}",
    )

    assert plan.tiers == (
        TierSpec(up_to=10, unit_price=Decimal("0.5"), flat_price=Decimal(1)),
        TierSpec(unit_price=Decimal("0.25")),
    )


@pytest.mark.parametrize(
    ("fields", "key", "message"),
    [
        ("price: free", ".price", "must be an amount of 0 or more"),
        ("price: -1", ".price", "must be an amount of 0 or more"),
        ("price: 1, currency: dollars", ".currency", "ISO 4217"),
        ("price: 1, billing_interval: fortnight", ".billing_interval", "must be day, week, month or year"),
        ("price: 1, credits_per_period: 1.5", ".credits_per_period", "must be a whole number"),
        ("price: 1, requests_per_minute: -1", ".requests_per_minute", "must be at least 0"),
        ("price: 1, requests_per_minute: 3000000000", ".requests_per_minute", "must be at most"),
        ("price: 1, request_per_minute: 1", ".request_per_minute", "did you mean requests_per_minute?"),
        ("price: 1, max_file_size_bytes: 5 bananas", ".max_file_size_bytes", "must be a size"),
        ("price: 1, features: analysis", ".features", "must be a list of feature names"),
        ("price: 1, features: {a: 1.5}", ".features", "feature a must be true, false"),
        ("price: 1, features: {'a b': 1}", ".features", "feature names are"),
        ("price: 1, pricing_model: tiered", "", "needs tiers"),
        ("price: 1, tiers: [{unit_price: 1}]", "", "tiers need pricing_model tiered, volume or usage"),
        (
            "price: 0, pricing_model: volume, tiers: [{up_to: 5, unit_price: 1}, {up_to: 5, unit_price: 1}]",
            "",
            "must rise by up_to",
        ),
        (
            "price: 0, pricing_model: volume, tiers: [{unit_price: 1}, {up_to: 5, unit_price: 1}]",
            "",
            "only the last may leave it out",
        ),
        ("price: 0, pricing_model: volume, tiers: [{up_to: 5, unit_price: 1}]", "", "must leave up_to out"),
        ("price: 5, pricing_model: tiered, tiers: [{unit_price: 1}]", "", "price must be 0 where tiers price the plan"),
        ("price: 5, pricing_model: usage, tiers: [{unit_price: 1}]", "", "price must be 0 where tiers price the plan"),
        ("price: 9.99, currency: JPY", "", "9.99 is no amount of JPY"),
        ("price: 1.2345, currency: KWD", "", "it has 3 decimal digits"),
        (
            "price: 0, currency: JPY, pricing_model: tiered, tiers: [{unit_price: 0.5, flat_price: 0.5}]",
            "",
            "0.5 is no amount of JPY",
        ),
        ("price: 1, trial_period_days: 731", "", "trial_period_days: at most 730"),
        ("price: 1, billing_interval_count: 37", "", "billing_interval_count: at most 36 of month"),
        ("price: 1, overage: {credits: 5}", "", "overage: price is required"),
        ("price: 1, overage: {credits: 0, price: 1}", ".overage.credits", "must be at least 1"),
        ("price: 1, tiers_mode: volume", "", "tiers_mode is for tiers of pricing_model usage"),
    ],
)
def test_invalid_plan_is_refused(tmp_path: Path, fields: str, key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plans(tmp_path, f"{{id: a, name: a, {fields}}}")

    (problem,) = caught.value.problems
    assert problem.key == f"plans[0]{key}"
    assert message in problem.message


def test_two_plans_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plans\[1\]\.id: 'a' is taken already"):
        plans(tmp_path, "{id: a, name: a, price: 0}", "{id: a, name: b, price: 0}")


@pytest.mark.parametrize("credits_given", [10**12 + 1, 2**53, 2**63 - 1])
def test_credits_that_no_balance_can_hold_are_refused(tmp_path: Path, credits_given: int) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"plans: [{{id: a, name: A, price: 1, credits_per_period: {credits_given}}}]")
    with pytest.raises(ConfigError, match="credits_per_period"):
        load(file, SECRETS)
    file.write_text(f"billing: {{packs: [{{id: a, name: A, price: 1, credits: {credits_given}}}]}}")
    with pytest.raises(ConfigError, match="credits"):
        load(file, SECRETS)


def test_pack_whose_price_does_not_fit_its_currency_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("billing: {packs: [{id: a, name: A, price: 9.99, currency: JPY, credits: 5}]}")
    with pytest.raises(ConfigError, match=r"9\.99 is no amount of JPY"):
        load(file, SECRETS)


def test_price_of_a_unit_may_be_finer_than_its_currency(tmp_path: Path) -> None:
    (plan,) = plans(tmp_path, "{id: a, name: a, price: 0.0001, pricing_model: usage, overage: {credits: 9}}")
    assert plan.price == Decimal("0.0001")
