"""Money is matched to invoices without a cent made or lost, and comes back from them in a fixed order."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.billing.allocations import Allocation, Claim, oldest_first, taken_back

CENTS = st.integers(0, 100_00).map(lambda cents: Decimal(cents) / 100)
A, B, C = (UUID(int=number) for number in (1, 2, 3))


@given(amount=CENTS, dues=st.lists(CENTS, max_size=6))
def test_payment_pays_oldest_first_and_never_more_than_is_due(amount: Decimal, dues: list[Decimal]) -> None:
    claims = [Claim(UUID(int=number), due) for number, due in enumerate(dues)]
    found = oldest_first(amount, claims)
    due = {claim.invoice_id: claim.due for claim in claims}
    assert sum((each.amount for each in found), Decimal(0)) == min(amount, sum(dues, Decimal(0)))
    assert all(0 < each.amount <= due[each.invoice_id] for each in found)
    assert all(each.amount == due[each.invoice_id] for each in found[:-1])


@given(
    parts=st.lists(st.integers(1, 50), max_size=5),
    unmatched=st.integers(0, 50),
    surplus=st.lists(st.integers(0, 60), min_size=5, max_size=5),
    share=st.integers(0, 100),
)
def test_refund_takes_exactly_its_amount(parts: list[int], unmatched: int, surplus: list[int], share: int) -> None:
    allocations = [Allocation(UUID(int=number), Decimal(part)) for number, part in enumerate(parts)]
    overpaid = [Claim(UUID(int=number), Decimal(-more)) for number, more in enumerate(surplus)]
    amount = Decimal((sum(parts) + unmatched) * share // 100)
    found = taken_back(amount, allocations, unmatched=Decimal(unmatched), overpaid=overpaid)
    assert sum((each.amount for each in found), Decimal(0)) == max(Decimal(0), amount - unmatched)
    had = {each.invoice_id: each.amount for each in allocations}
    assert all(0 < each.amount <= had[each.invoice_id] for each in found)


def test_refund_takes_what_pays_nothing_then_what_is_overpaid_then_the_newest() -> None:
    allocations = [Allocation(A, Decimal(10)), Allocation(B, Decimal(20)), Allocation(C, Decimal(30))]
    overpaid = [Claim(A, Decimal(-4)), Claim(B, Decimal(0))]

    def back(amount: int) -> dict[UUID, Decimal]:
        found = taken_back(Decimal(amount), allocations, unmatched=Decimal(5), overpaid=overpaid)
        return {each.invoice_id: each.amount for each in found}

    assert back(5) == {}
    assert back(8) == {A: Decimal(3)}
    assert back(15) == {A: Decimal(4), C: Decimal(6)}
    assert back(65) == {A: Decimal(10), B: Decimal(20), C: Decimal(30)}
    with pytest.raises(ValueError, match="by 1"):
        back(66)
