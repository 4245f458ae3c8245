"""Numbers, due dates, parts of credit notes and usage that is invoiced in parts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.billing.invoicing import Line, Pricing, Totals, lines_of, partial_credit, totals, usage_lines
from policies.billing.issuing import Buyer, Issuer, Seller, buyer_from_json, seller_from_json, to_json
from policies.billing.money import exponent, from_minor, rounded
from tests.policies.billing.test_invoicing import CURRENCIES, PRICES, pricings

NEW_YEAR = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)


def test_number_has_prefix_and_the_sellers_year() -> None:
    assert Issuer().full_number(12, NEW_YEAR) == "INV-2026-000012"
    berlin = Issuer(prefix="RE", seller=Seller(time_zone="Europe/Berlin"))
    assert berlin.full_number(1234567, NEW_YEAR) == "RE-2027-1234567"
    assert Issuer(seller=Seller(time_zone="Nowhere/Else")).full_number(1, NEW_YEAR) == "INV-2026-000001"


def test_due_date_is_counted_from_the_issue() -> None:
    assert Issuer(due_after=timedelta(days=30)).due_at(NEW_YEAR) == NEW_YEAR + timedelta(days=30)


def test_parties_survive_json_and_fields_of_a_later_release() -> None:
    seller = Seller(name="Żubr", address=("Straße 1", "Berlin"), bank=("IBAN DE02",))
    buyer = Buyer(company="株式会社", vat_id="PL1", time_zone="Europe/Warsaw")
    assert seller_from_json(to_json(seller)) == seller
    assert buyer_from_json({**to_json(buyer), "later": 1}) == buyer
    assert to_json(Seller()) == {"time_zone": "UTC"}


@given(st.integers(1, 10**9), st.decimals(0, 1, places=4), CURRENCIES, st.lists(st.integers(1, 10**9), max_size=8))
def test_credit_notes_take_no_more_than_the_invoice_and_exactly_its_tax(
    net: int, rate: Decimal, currency: str, wishes: list[int]
) -> None:
    invoiced = totals([Line("x", 1, None, from_minor(net, currency))], tax_rate=rate, currency=currency)
    credited, notes = Decimal(0), []
    for wish in (*(from_minor(each, currency) for each in wishes), None):
        left = invoiced.total - credited
        amount = left if wish is None else wish
        if not 0 < amount <= left:
            with pytest.raises(ValueError, match=r"must be above 0|at most"):
                partial_credit(invoiced, credited=credited, amount=amount, currency=currency)
            continue
        note = partial_credit(invoiced, credited=credited, amount=amount, currency=currency)
        assert note.total == -amount == note.subtotal + note.tax
        assert max(note.subtotal, note.tax) <= 0
        assert all(value == rounded(value, currency) for value in (note.subtotal, note.tax))
        credited += amount
        notes.append(note)
    assert -sum(note.tax for note in notes) == invoiced.tax
    assert -sum(note.total for note in notes) == credited == invoiced.total


@pytest.mark.parametrize(("amount", "currency"), [("0", "USD"), ("-1", "USD"), ("0.001", "USD"), ("1.5", "JPY")])
def test_credit_of_no_whole_minor_units_is_refused(amount: str, currency: str) -> None:
    invoiced = Totals(Decimal(10), Decimal(0), Decimal(10))
    with pytest.raises(ValueError, match="whole minor units"):
        partial_credit(invoiced, credited=Decimal(0), amount=Decimal(amount), currency=currency)


@given(PRICES, CURRENCIES, st.lists(st.integers(0, 500), min_size=1, max_size=12))
def test_usage_invoiced_in_parts_costs_what_all_of_it_costs(price: Decimal, currency: str, counts: list[int]) -> None:
    pricing = Pricing("usage", price, currency)
    billed, asked = 0, Decimal(0)
    for more in counts:
        lines = usage_lines(pricing, billed + more, billed=billed, description="Calls")
        assert sum(line.quantity for line in lines) == more
        asked += sum(line.amount for line in lines)
        billed += more
    (whole,) = lines_of(pricing, billed, description="Calls")
    assert asked == whole.amount


@given(pricings(), st.integers(1, 900), st.integers(0, 900))
def test_usage_of_any_model_adds_up_over_parts(pricing: Pricing, used: int, more: int) -> None:
    assume(pricing.model != "flat")
    first = usage_lines(pricing, used, billed=0, description="Calls")
    rest = usage_lines(pricing, used + more, billed=used, description="Calls")
    whole = lines_of(pricing, used + more, description="Calls")
    assert sum(line.amount for line in (*first, *rest)) == sum(line.amount for line in whole)
    assert all(line.amount.as_tuple().exponent == -exponent(pricing.currency) for line in (*first, *rest))
