"""Which invoices a payment pays, and which of them a refund takes it back from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Claim:
    """An invoice and what is still due on it; after credit notes it may be overpaid, then `due` is below 0."""

    invoice_id: UUID
    due: Decimal


@dataclass(frozen=True, slots=True)
class Allocation:
    """The part of a payment that pays an invoice."""

    invoice_id: UUID
    amount: Decimal


def oldest_first(amount: Decimal, claims: Iterable[Claim]) -> tuple[Allocation, ...]:
    """Pays the claims in their order as far as the amount reaches; what is left over pays none."""
    found, left = [], amount
    for claim in claims:
        part = min(left, claim.due)
        if part > 0:
            found.append(Allocation(claim.invoice_id, part))
            left -= part
    return tuple(found)


def taken_back(
    amount: Decimal, allocations: Sequence[Allocation], *, unmatched: Decimal, overpaid: Iterable[Claim]
) -> tuple[Allocation, ...]:
    """What a refund of `amount` takes from invoices that the payment paid, as positive parts.

    First goes what pays no invoice, then what credit notes left overpaid, then the newest allocations, whose invoices
    are due again. Raises ValueError for more than the payment has.
    """
    surplus = {claim.invoice_id: -claim.due for claim in overpaid if claim.due < 0}
    left = amount - min(amount, unmatched)
    taken = dict.fromkeys((each.invoice_id for each in allocations), Decimal(0))
    for allowed in (surplus, {each.invoice_id: each.amount for each in allocations}):
        for each in reversed(allocations):
            already = taken[each.invoice_id]
            part = min(left, each.amount - already, max(Decimal(0), allowed.get(each.invoice_id, Decimal(0)) - already))
            taken[each.invoice_id] += part
            left -= part
    if left > 0:
        raise ValueError(f"more than the payment has, by {left}")
    return tuple(Allocation(invoice_id, part) for invoice_id, part in taken.items() if part)
