"""What an invoice shows, as text: the same for the page and the PDF.

All of it comes from the stored invoice, so an issued one reads the same whatever becomes of the account, the
configuration and the plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from gateway.ledger.invoicing.invoices import Invoice, line_from_json
from policies.billing.invoicing import Line
from policies.billing.issuing import Buyer, Seller, buyer_from_json, seller_from_json, zone
from policies.billing.money import plain, rounded


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the invoice."""

    description: str
    quantity: str
    unit_price: str
    amount: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """`facts` and `sums` are labels with their values; the first of `seller` and `buyer` is the name."""

    title: str
    file_name: str
    issued_at: datetime | None
    currency: str
    seller: tuple[str, ...]
    buyer: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    sums: tuple[tuple[str, str], ...]
    balance: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def texts(self) -> Iterable[str]:
        """All that is not in the words of the program, whose letters every font has."""
        pairs = (*self.facts, *self.sums, *self.balance)
        cells = (cell for row in self.rows for cell in (row.description, row.quantity, row.unit_price, row.amount))
        return (self.title, *self.seller, *self.buyer, *(each for pair in pairs for each in pair), *cells, *self.notes)


def document_of(invoice: Invoice, *, corrected: Invoice | None = None) -> Document:
    """`corrected` is the invoice that a credit note takes back."""
    seller = seller_from_json(invoice.seller or {})
    buyer = buyer_from_json(invoice.buyer or {})
    title = f"{_kind(invoice)} {number_of(invoice)}"
    return Document(
        title=title,
        file_name=title.replace(" ", "-"),
        issued_at=invoice.issued_at,
        currency=invoice.currency,
        seller=_seller_lines(seller),
        buyer=_buyer_lines(buyer),
        facts=tuple(_facts(invoice, corrected, seller=seller, buyer=buyer)),
        rows=tuple(_row(line_from_json(line), invoice.currency) for line in invoice.lines),
        sums=tuple(_sums(invoice)),
        balance=tuple(_balance(invoice)),
        notes=_notes(invoice, seller),
    )


def number_of(invoice: Invoice) -> str:
    """As printed; releases before had the bare number."""
    return invoice.full_number or str(invoice.number or invoice.provider_number or "(draft)")


def _kind(invoice: Invoice) -> str:
    is_in_favour = invoice.total < 0  # a change to a smaller plan may credit more than it charges
    return "Credit note" if invoice.corrects_id or is_in_favour else "Invoice"


def _seller_lines(seller: Seller) -> tuple[str, ...]:
    tax_id = f"Tax id: {seller.tax_id}" if seller.tax_id else ""
    return _present((seller.name, *seller.address, tax_id, seller.email))


def _buyer_lines(buyer: Buyer) -> tuple[str, ...]:
    vat_id = f"VAT id: {buyer.vat_id}" if buyer.vat_id else ""
    return _present((buyer.company, buyer.name, *buyer.address, vat_id, buyer.email))


def _facts(invoice: Invoice, corrected: Invoice | None, *, seller: Seller, buyer: Buyer) -> Iterable[tuple[str, str]]:
    if invoice.issued_at:
        yield "Date", _day(invoice.issued_at, seller.time_zone)
    if corrected is not None:
        yield "Corrects", f"{_kind(corrected)} {number_of(corrected)}"
    if invoice.reason:
        yield "Reason", invoice.reason
    if invoice.period_start and invoice.period_end:
        days = (_day(each, buyer.time_zone) for each in (invoice.period_start, invoice.period_end))
        yield "Period", " to ".join(days)
    if invoice.status == "open" and invoice.due_at:
        yield "Due", _day(invoice.due_at, seller.time_zone)
    if invoice.status == "paid" and invoice.paid_at:
        yield "Paid", _day(invoice.paid_at, seller.time_zone)
    if invoice.status in ("void", "uncollectible", "draft"):
        yield "Status", invoice.status


def _row(line: Line, currency: str) -> Row:
    price = "" if line.unit_price is None else plain(line.unit_price)
    return Row(line.description, str(line.quantity), price, _money(line.amount, currency))


def _sums(invoice: Invoice) -> Iterable[tuple[str, str]]:
    rate = f" {plain((invoice.tax_rate * 100).normalize())} %" if invoice.tax_rate else ""
    yield "Subtotal", _money(invoice.subtotal, invoice.currency)
    yield f"Tax{rate}", _money(invoice.tax, invoice.currency)
    yield "Total", f"{_money(invoice.total, invoice.currency)} {invoice.currency}"


def _balance(invoice: Invoice) -> Iterable[tuple[str, str]]:
    """What the total became since; nothing where nothing did."""
    if invoice.amount_credited:
        yield "Credited", _money(-invoice.amount_credited, invoice.currency)
    if invoice.amount_paid:
        yield "Paid", _money(-invoice.amount_paid, invoice.currency)
    if invoice.status == "open" and invoice.amount_due != invoice.total:
        yield "To pay", f"{_money(invoice.amount_due, invoice.currency)} {invoice.currency}"


def _notes(invoice: Invoice, seller: Seller) -> tuple[str, ...]:
    if invoice.status != "open" or invoice.amount_due <= 0 or not seller.bank:
        return ()
    by = f" by {_day(invoice.due_at, seller.time_zone)}" if invoice.due_at else ""
    due = f"{_money(invoice.amount_due, invoice.currency)} {invoice.currency}"
    return (f"Please pay {due}{by}, naming {number_of(invoice)}, to:", *_present(seller.bank))


def _money(amount: Decimal, currency: str) -> str:
    return plain(rounded(amount, currency))


def _day(instant: datetime, zone_name: str) -> str:
    return f"{instant.astimezone(zone(zone_name)):%Y-%m-%d}"


def _present(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(line.strip() for line in lines if line.strip())
