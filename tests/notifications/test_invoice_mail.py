"""The mail about an invoice names it, what it asks for and when."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.notifications.email_templates import TemplateContext, render

INVOICE = {"invoice_id": "1", "number": "INV-2026-000012", "currency": "EUR", "corrects_id": None}


@pytest.mark.parametrize(
    ("payload", "subject", "fact"),
    [
        ({"total": "27.75", "due_on": "2026-07-15"}, "Invoice INV-2026-000012", "27.75 EUR are due by 2026-07-15."),
        ({"total": "0.00", "due_on": None}, "Invoice INV-2026-000012", "There is nothing to pay."),
        ({"total": "-5.00", "due_on": None}, "Credit note INV-2026-000012", "5.00 EUR were credited to you."),
    ],
)
def test_mail_says_what_is_due(payload: dict[str, Any], subject: str, fact: str) -> None:
    email = render("invoice.issued", {**INVOICE, **payload}, name="Ada", context=TemplateContext(secret="s" * 32))
    assert email.subject == subject
    assert fact in email.text
