"""Values as pages write them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from gateway.web import formats
from gateway.web.site import environment
from policies.pricing.receipts import ReceiptLine


@pytest.mark.parametrize(
    ("amount", "currency", "written"),
    [
        ("1234.5", "USD", "1,234.50 USD"),
        ("0.010000", "USD", "0.01 USD"),
        ("0.000120", "USD", "0.00012 USD"),
        ("30", "USD", "30.00 USD"),
        ("1200", "JPY", "1,200 JPY"),
        ("1.5", "KWD", "1.500 KWD"),
        ("-0.5", "EUR", "-0.50 EUR"),
        (Decimal("1E+3"), "USD", "1,000.00 USD"),
        ("8.60", "", "8.60"),
        ("1200", "", "1,200"),
        (None, "USD", formats.NOTHING),
    ],
)
def test_money_has_the_digits_of_its_currency_and_no_zeros_behind(
    amount: str | Decimal | None, currency: str, written: str
) -> None:
    assert formats.money(amount, currency) == written


def test_nouns_agree_with_their_number() -> None:
    assert [formats.several(count, "credit") for count in (0, 1, 2, 1200)] == [
        "0 credits",
        "1 credit",
        "2 credits",
        "1,200 credits",
    ]


@pytest.mark.parametrize(
    ("computed", "shown"),
    [
        (
            "1041 cached_input at 260000 + 54 output at 1000 per 1000000 tokens, at least 1, at most 10000",
            "1,041 cached input at 260,000 + 54 output at 1,000 per 1,000,000 tokens, at least 1, at most 10,000",
        ),
        ("0.12345 USD at 1234.56789 per USD", "0.12345 USD at 1,234.56789 per USD"),
        ("nothing, the call ended as upstream_error", "nothing, the call ended as upstream error"),
    ],
)
def test_how_a_charge_came_about_is_shown_in_words_and_groups(computed: str, shown: str) -> None:
    assert formats.legible(computed) == shown


def test_number_of_a_sum_of_fractions_has_no_noise_of_binary() -> None:
    numbers = (0.1 + 0.2, 1e-6, 0.0, 1234.5, 1200, None)
    assert [formats.number(each) for each in numbers] == ["0.3", "0.000001", "0", "1,234.5", "1,200", formats.NOTHING]


def test_lines_of_a_receipt_have_numbers_in_groups() -> None:
    line = ReceiptLine("input", 1041, Decimal(260_000), "1000000 tokens", Decimal("270.66"))
    call = {"computed": "", "lines": [line], "balance_after": None, "error_code": None}
    call |= {"method": "POST", "path": "/x", "request_id": "r"}
    text = environment().get_template("portal/receipt.html").render(call=call)
    assert "260,000 per 1,000,000 tokens" in text
    assert ">1,041<" in text
