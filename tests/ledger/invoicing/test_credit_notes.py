"""Credit notes: in part or whole, never more than the invoice; and payments of invoices."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.accounts import users
from gateway.ledger.db.errors import InUse
from gateway.ledger.invoicing import credit_notes, invoices, issued_invoices
from gateway.ledger.invoicing.invoices import Invoice
from policies.billing.invoicing import Line
from policies.billing.issuing import Issuer
from tests.ledger.invoicing.test_issued_invoices import JUNE, a_plan, begun, changed, invoiced
from tests.ledger.make import a_user

ISSUER = Issuer(tax_rate=Decimal("0.19"))


async def an_invoice(connection: AsyncConnection, *amounts: str) -> Invoice:
    user = await a_user(connection)
    lines = [Line("Pro", 1, Decimal(each), Decimal(each)) for each in amounts or ["100.00"]]
    return await invoices.issue(connection, user.id, lines=lines, currency="EUR", issuer=ISSUER, now=JUNE)


async def credited(connection: AsyncConnection, invoice: Invoice, amount: str | None = None, **given: Any) -> Invoice:
    found = await issued_invoices.get_for_update(connection, invoice.id)
    wanted = None if amount is None else Decimal(amount)
    return await credit_notes.issue(connection, found, issuer=ISSUER, now=JUNE, amount=wanted, **given)


async def stored(connection: AsyncConnection, invoice: Invoice) -> Invoice:
    found = await invoices.get(connection, invoice.id)
    assert found is not None
    return found


async def test_partial_credit_note_names_its_invoice_and_reason_and_leaves_it_open(connection: AsyncConnection) -> None:
    invoice = await an_invoice(connection)
    note = await credited(connection, invoice, "11.90", reason="goodwill")
    assert (str(note.subtotal), str(note.tax), str(note.total)) == ("-10.00", "-1.90", "-11.90")
    assert (note.corrects_id, note.reason, note.status, note.paid_at) == (invoice.id, "goodwill", "paid", None)
    assert note.lines[0]["description"] == f"Credit for {invoice.full_number}: goodwill"
    assert note.lines[0]["kind"] == "credit"
    after = await stored(connection, invoice)
    assert (after.status, str(after.amount_credited), str(after.amount_due)) == ("open", "11.90", "107.10")


async def test_invoice_credited_in_full_is_closed_and_not_credited_again(connection: AsyncConnection) -> None:
    invoice = await an_invoice(connection)
    with pytest.raises(ValueError, match=r"at most 119\.00 EUR"):
        await credited(connection, invoice, "119.01")
    await credited(connection, invoice, "50.00")
    rest = await credited(connection, invoice)
    after = await stored(connection, invoice)
    assert (str(rest.total), after.status, after.paid_at, after.amount_due) == ("-69.00", "paid", None, Decimal(0))
    with pytest.raises(InUse, match="credited in full"):
        await credited(connection, invoice)
    with pytest.raises(InUse, match="credit note"):
        await credited(connection, rest)


async def test_credit_note_of_all_has_the_invoices_lines_reversed(connection: AsyncConnection) -> None:
    note = await credited(connection, await an_invoice(connection, "10.00", "20.00"))
    assert [line["amount"] for line in note.lines] == ["-10.00", "-20.00"]


async def test_credit_notes_take_at_most_the_total_also_by_the_database(connection: AsyncConnection) -> None:
    invoice = await an_invoice(connection)
    with pytest.raises(IntegrityError, match="credited_within_total"):
        await connection.execute(
            text("UPDATE invoices SET amount_credited = total + 0.01 WHERE id = :id"), {"id": invoice.id}
        )


async def test_credit_note_names_the_buyer_of_its_invoice(connection: AsyncConnection) -> None:
    invoice = await an_invoice(connection)
    await users.patch(connection, invoice.user_id, company="Other Co")
    assert (await credited(connection, invoice)).buyer == invoice.buyer


async def test_invoice_in_the_customers_favour_is_no_longer_open_and_can_be_void(connection: AsyncConnection) -> None:
    basic, pro = await a_plan(connection, "9.99"), await a_plan(connection, "29.99")
    mine = await begun(connection, pro)
    await invoiced(connection, mine, JUNE)
    await changed(connection, mine, JUNE, plan_id=basic)
    in_favour = await invoiced(connection, mine, JUNE)
    assert (in_favour.status, in_favour.paid_at, in_favour.due_at) == ("paid", None, None)
    with pytest.raises(InUse, match="asks for nothing"):
        await credited(connection, in_favour)
    await issued_invoices.void(connection, await issued_invoices.get_for_update(connection, in_favour.id), now=JUNE)
    assert [line["amount"] for line in (await invoiced(connection, mine, JUNE)).lines] == ["-29.99", "9.99"]


async def test_invoice_of_nothing_is_paid_at_once(connection: AsyncConnection) -> None:
    invoice = await an_invoice(connection, "10.00", "-10.00")
    assert (invoice.status, invoice.paid_at, invoice.total) == ("paid", JUNE, Decimal(0))


async def test_payments_in_part_settle_an_invoice_once_all_has_come(connection: AsyncConnection) -> None:
    invoice = await an_invoice(connection)
    await credited(connection, invoice, "19.00")
    partly = await invoices.add_payment(connection, invoice.id, amount=Decimal("60.00"), at=JUNE)
    assert (partly.status, str(partly.amount_due), partly.paid_at) == ("open", "40.00", None)
    with pytest.raises(InUse, match="does not fit"):
        await invoices.add_payment(connection, invoice.id, amount=Decimal("40.01"), at=JUNE)
    with pytest.raises(InUse, match="credit it instead"):
        await invoices.close(connection, invoice.id, status="void", now=JUNE)
    paid = await invoices.add_payment(connection, invoice.id, amount=Decimal("40.00"), at=JUNE)
    assert (paid.status, paid.amount_due, paid.paid_at) == ("paid", Decimal(0), JUNE)
    back = await invoices.add_payment(connection, invoice.id, amount=Decimal("-40.00"), at=JUNE)
    assert (back.status, str(back.amount_due)) == ("open", "40.00")


async def test_credit_of_a_paid_invoice_leaves_it_paid(connection: AsyncConnection) -> None:
    invoice = await an_invoice(connection)
    await invoices.close(connection, invoice.id, status="paid", now=JUNE)
    await credited(connection, invoice, "19.00")
    after = await stored(connection, invoice)
    assert (after.status, after.amount_paid, after.amount_credited) == ("paid", Decimal(119), Decimal(19))


async def test_issued_invoice_keeps_seller_and_terms_of_its_time(connection: AsyncConnection) -> None:
    invoice = await an_invoice(connection)
    later = replace(ISSUER, tax_rate=Decimal("0.25"), prefix="X")
    note = await credit_notes.issue(
        connection, await issued_invoices.get_for_update(connection, invoice.id), issuer=later, now=JUNE
    )
    assert (note.tax, note.total) == (-invoice.tax, -invoice.total)  # as it was taxed, not as one is now
    assert (await stored(connection, invoice)).full_number == invoice.full_number


async def test_invoice_paid_in_part_and_credited_for_the_rest_says_when_it_was_paid(
    connection: AsyncConnection,
) -> None:
    invoice = await an_invoice(connection)
    await invoices.add_payment(connection, invoice.id, amount=Decimal("60.00"), at=JUNE)
    await credited(connection, invoice)
    after = await stored(connection, invoice)
    assert (after.status, str(after.amount_paid), after.paid_at) == ("paid", "60.00", JUNE)
