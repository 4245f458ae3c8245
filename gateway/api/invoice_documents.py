"""An invoice as an HTML page and as a PDF."""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, Template, select_autoescape
from starlette.responses import HTMLResponse

from gateway.api.page_policy import policy_of
from gateway.api.schemas.billing_records import Invoice
from gateway.ledger.accounts.users import User

if TYPE_CHECKING:
    from fpdf import FPDF

_HERE = Path(__file__).parent
_WIDTHS = (100, 25, 30, 35)


def title_of(invoice: Invoice) -> str:
    is_in_favour = Decimal(invoice.total) < 0  # a change to a smaller plan may credit more than it charges
    kind = "Credit note" if invoice.corrects_id or is_in_favour else "Invoice"
    return f"{kind} {invoice.number or invoice.provider_number or '(draft)'}"


def as_html(invoice: Invoice, user: User) -> str:
    return _template().render(invoice=invoice, user=user, title=title_of(invoice), day=_day)


def html_response(invoice: Invoice, user: User) -> HTMLResponse:
    return HTMLResponse(as_html(invoice, user), headers={"content-security-policy": _policy()})


def as_pdf(invoice: Invoice, user: User) -> bytes:
    """One page in the standard fonts of PDF, which have Latin-1 only: other characters show as `?`."""
    from fpdf import FPDF  # 30 MiB with its fonts, which a process without invoices need not load

    pdf = FPDF()
    if invoice.issued_at is not None:
        pdf.set_creation_date(invoice.issued_at)
    pdf.set_title(title_of(invoice))
    pdf.add_page()
    pdf.set_font("helvetica", "B", 16)
    _row(pdf, (title_of(invoice),), (190,))
    pdf.set_font("helvetica", size=10)
    for fact in _facts(invoice, user):
        _row(pdf, (fact,), (190,))
    pdf.ln(6)
    _row(pdf, ("Description", "Quantity", "Price", "Amount"), _WIDTHS)
    for line in invoice.lines:
        _row(pdf, (line.description, str(line.quantity), line.unit_price or "", line.amount), _WIDTHS)
    pdf.ln(4)
    for name, amount in (("Subtotal", invoice.subtotal), ("Tax", invoice.tax), ("Total", invoice.total)):
        _row(pdf, ("", "", name, f"{amount} {invoice.currency}"), _WIDTHS)
    return bytes(pdf.output())


def _facts(invoice: Invoice, user: User) -> list[str]:
    whose = [part for part in (user.name, user.company, user.email) if part]
    facts = [*whose, f"Status: {invoice.status}"]
    if invoice.issued_at:
        facts.append(f"Issued: {_day(invoice.issued_at)}")
    if invoice.period_start and invoice.period_end:
        facts.append(f"Period: {_day(invoice.period_start)} to {_day(invoice.period_end)}")
    return facts


def _row(pdf: FPDF, cells: tuple[str, ...], widths: tuple[int, ...]) -> None:
    for cell, width in zip(cells, widths, strict=True):
        known = cell.encode("latin-1", "replace").decode("latin-1")
        align = "L" if width > 50 else "R"
        pdf.cell(width, 7, _cut(pdf, known, width), align=align, new_x="RIGHT", new_y="TOP")
    pdf.ln(7)


def _cut(pdf: FPDF, text: str, width: int) -> str:
    while text and pdf.get_string_width(text) > width - 2:
        text = text[:-1]
    return text


def _day(instant: object) -> str:
    return f"{instant:%Y-%m-%d}"


@cache
def _policy() -> str:
    return policy_of((_HERE / "invoice.html").read_text("utf-8"))


@cache
def _template() -> Template:
    return Environment(loader=FileSystemLoader(_HERE), autoescape=select_autoescape()).get_template("invoice.html")
