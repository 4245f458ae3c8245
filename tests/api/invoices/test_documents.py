"""The page and the PDF of an invoice: any script, any length, and the same bytes whatever becomes of the account."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from fontTools.ttLib import TTFont
from pypdf import PdfReader
from structlog.testing import capture_logs

from gateway.api.invoices import fonts
from gateway.api.invoices.document import Document, document_of
from gateway.api.invoices.pdf import as_pdf
from gateway.api.invoices.responses import as_html
from gateway.ledger.invoicing.invoices import Invoice, line_to_json
from policies.billing.invoicing import Line, totals
from policies.billing.issuing import Buyer, Issuer, Seller, to_json

ISSUER = Issuer(
    seller=Seller(
        name="Żubr & Söhne GmbH",
        address=("Straße 1", "10115 Berlin"),
        tax_id="DE123456789",
        bank=("IBAN DE02 1203 0000 0000 2020 51",),
        time_zone="Europe/Berlin",
    ),
    tax_rate=Decimal("0.19"),
)
BUYER = Buyer(name="Zoë", company="Łódź Żaba S.A.", address=("1 Road", "London"), vat_id="PL1234567890")
SCRIPTS = ("Łódź", "Αθήνα", "Київ", "株式会社")
ISSUED_AT = datetime(2026, 6, 30, 22, 30, tzinfo=UTC)


def an_invoice(lines: int = 2, buyer: Buyer = BUYER, **values: Any) -> Invoice:
    each = Line(
        "Pro, 2026-06-11 to 2026-07-01: a description of more than one line of print, as they are", 1, None, Decimal(1)
    )
    found = totals([each] * lines, tax_rate=ISSUER.tax_rate, currency="EUR")
    stored: dict[str, Any] = {
        "id": UUID(int=1),
        "number": 12,
        "user_id": UUID(int=2),
        "subscription_id": None,
        "status": "open",
        "currency": "EUR",
        "subtotal": found.subtotal,
        "tax": found.tax,
        "total": found.total,
        "tax_rate": ISSUER.tax_rate,
        "lines": [line_to_json(each)] * lines,
        "provider": "manual",
        "period_start": None,
        "period_end": None,
        "issued_at": ISSUED_AT,
        "due_at": ISSUER.due_at(ISSUED_AT),
        **dict.fromkeys(
            ("paid_at", "provider_invoice_id", "provider_number", "url", "corrects_id", "plan_id", "reason")
        ),
        "full_number": ISSUER.full_number(12, ISSUED_AT),
        "seller": to_json(ISSUER.seller),
        "buyer": to_json(buyer),
        "amount_paid": Decimal(0),
        "amount_credited": Decimal(0),
        "metadata": {},
        "created_at": ISSUED_AT,
    }
    return Invoice(**{**stored, **values})


def pages_of(document: Document) -> list[str]:
    """The text of each page, as a reader finds it in the file; pypdf shows the first half of two-byte codes as NUL."""
    return [page.extract_text().replace("\0", "") for page in PdfReader(io.BytesIO(as_pdf(document))).pages]


def test_document_has_all_that_an_invoice_needs() -> None:
    document = document_of(an_invoice())
    assert document.title == "Invoice INV-2026-000012"
    assert document.seller == ("Żubr & Söhne GmbH", "Straße 1", "10115 Berlin", "Tax id: DE123456789")
    assert document.buyer == ("Łódź Żaba S.A.", "Zoë", "1 Road", "London", "VAT id: PL1234567890")
    assert dict(document.facts) == {"Date": "2026-07-01", "Due": "2026-07-15"}  # days of Berlin
    assert document.sums == (("Subtotal", "2.00"), ("Tax 19 %", "0.38"), ("Total", "2.38 EUR"))
    assert document.notes[0] == "Please pay 2.38 EUR by 2026-07-15, naming INV-2026-000012, to:"


def test_credit_note_names_the_invoice_that_it_corrects() -> None:
    corrected = an_invoice()
    note = an_invoice(corrects_id=corrected.id, total=Decimal(-1), number=13, status="paid", reason="goodwill")
    document = document_of(replace(note, full_number="INV-2026-000013"), corrected=corrected)
    assert document.title == "Credit note INV-2026-000013"
    assert dict(document.facts)["Corrects"] == "Invoice INV-2026-000012"
    assert dict(document.facts)["Reason"] == "goodwill"
    assert document.notes == ()


def test_document_tells_what_is_left_to_pay() -> None:
    document = document_of(an_invoice(amount_paid=Decimal(1), amount_credited=Decimal("0.38")))
    assert document.balance == (("Credited", "-0.38"), ("Paid", "-1.00"), ("To pay", "1.00 EUR"))


def test_pdf_shows_all_scripts_in_embedded_fonts() -> None:
    document = document_of(an_invoice(buyer=replace(BUYER, company=" ".join(SCRIPTS), name=" ".join(SCRIPTS))))
    with capture_logs() as logs:
        (found,) = pages_of(document)
    assert logs == []
    assert all(found.count(each) == 2 for each in SCRIPTS)
    assert "�" not in found


@pytest.mark.parametrize("name", ["한국", "简体中文", "ไทย", "עברית", "العربية", "देवनागरी"])
def test_pdf_has_more_scripts_with_the_extra(name: str) -> None:
    with capture_logs() as logs:
        (found,) = pages_of(document_of(an_invoice(buyer=replace(BUYER, company=name))))
    assert logs == []
    assert fonts.MISSING not in found


def test_pdf_of_the_same_invoice_has_the_same_bytes() -> None:
    document = document_of(an_invoice(buyer=replace(BUYER, company=" ".join(SCRIPTS))))
    assert as_pdf(document) == as_pdf(document)


def test_pdf_has_every_line_and_the_number_of_each_page() -> None:
    pages = pages_of(document_of(an_invoice(lines=300)))
    assert sum(page.count("Pro, 2026-06-11") for page in pages) == 300
    assert len(pages) > 5
    for number, page in enumerate(pages, 1):
        assert f"Page {number} of {len(pages)}" in page
        assert "Description" in page or number == len(pages)


def test_pdf_of_few_lines_is_one_page_and_of_sixty_several() -> None:
    assert len(pages_of(document_of(an_invoice()))) == 1
    assert len(pages_of(document_of(an_invoice(lines=60)))) in (3, 4, 5)


@pytest.mark.parametrize("company", ["W" * 300, "Łódź i Αθήνα " * 23, "株式会社" * 75, "{nb} §¶ §¶"])
def test_pdf_shows_names_of_any_length_whole(company: str) -> None:
    found = "".join(pages_of(document_of(an_invoice(buyer=replace(BUYER, company=company)))))
    # By how often its characters are there, since long names are broken anywhere.
    kept = [each for each in set(company) if each.isalpha() and found.count(each) < company.count(each)]
    assert kept == []
    assert "{nb}" in found or "{nb}" not in company


def test_pdf_marks_characters_that_no_font_has_and_logs_them() -> None:
    document = document_of(an_invoice(buyer=replace(BUYER, company="a\U00010380b", name="c\x07d")))
    with capture_logs() as logs:
        (found,) = pages_of(document)
    assert [(entry["event"], entry["characters"]) for entry in logs] == [("invoice_glyphs_missing", "\U00010380")]
    assert "a�b" in found
    assert "c d" in found


def test_pdf_without_any_font_package_is_still_a_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda: ())
    with capture_logs() as logs:
        assert as_pdf(document_of(an_invoice())).startswith(b"%PDF-")
    assert logs[0]["event"] == "invoice_glyphs_missing"


def test_fonts_have_a_licence_that_lets_documents_embed_them() -> None:
    for font in fonts._installed():
        for path in font.paths:
            with TTFont(path, lazy=True) as file:
                assert file["OS/2"].fsType == 0  # installable embedding (OpenType, OS/2)


def test_page_escapes_and_prints_on_a4() -> None:
    page = as_html(document_of(an_invoice(buyer=replace(BUYER, company="<b>株式会社</b>"))))
    assert "&lt;b&gt;株式会社&lt;/b&gt;" in page
    assert "@page { size: A4" in page
    assert "display: table-header-group" in page
    assert "counter(page)" in page
