"""Margins are told where credits have a value in the currency of costs, and nowhere else."""

from __future__ import annotations

from decimal import Decimal

import pytest

from policies.billing.money import CreditValue, margin


@pytest.mark.parametrize("value", [None, CreditValue("EUR", Decimal(100))])
def test_margin_without_a_value_in_dollars_is_unknown(value: CreditValue | None) -> None:
    assert margin(500, Decimal(1), value) == (None, None)


def test_margin_is_the_credits_as_money_less_the_cost() -> None:
    assert margin(500, Decimal("1.25"), CreditValue("USD", Decimal(100))) == (Decimal(5), Decimal("3.75"))
    assert margin(1, Decimal(2), CreditValue("USD", Decimal(3))) == (Decimal("0.333333"), Decimal("-1.666667"))
