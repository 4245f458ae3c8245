from __future__ import annotations

from decimal import Decimal

import pytest

from policies.billing.money import CreditValue


@pytest.mark.parametrize(
    ("currency", "per_unit", "credits", "amount"),
    [
        ("USD", "100000", 123456, "1.23"),
        ("USD", "100000", 124500, "1.24"),
        ("USD", "100000", -50000, "-0.50"),
        ("JPY", "1000", 2600, "3"),
        ("KWD", "1000", 1, "0.001"),
        ("USD", "0.5", 3, "6.00"),
    ],
)
def test_balance_has_the_minor_unit_of_its_currency(currency: str, per_unit: str, credits: int, amount: str) -> None:
    assert str(CreditValue(currency, Decimal(per_unit)).amount(credits)) == amount


@pytest.mark.parametrize(("currency", "amount"), [("USD", "0.000123"), ("JPY", "0.000123"), ("KWD", "0.000123")])
def test_price_of_a_call_keeps_what_is_less_than_a_minor_unit(currency: str, amount: str) -> None:
    assert str(CreditValue(currency, Decimal(1_000_000)).fine_amount(123)) == amount


def test_unit_that_divides_no_credit_evenly_is_rounded() -> None:
    assert str(CreditValue("USD", Decimal(3)).fine_amount(1)) == "0.333333"
