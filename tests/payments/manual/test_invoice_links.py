"""A link to an invoice opens that invoice in a browser, for a while and for nothing else."""

from __future__ import annotations

import re
from datetime import timedelta
from uuid import UUID

import pytest

from gateway import clock
from gateway.api.account.billing import invoice_links
from gateway.ledger.accounts.users import User
from tests.payments.operator.conftest import admin_client
from tests.payments.payment_stack import PaymentStack


async def an_invoice(stack: PaymentStack, user: User) -> str:
    async with admin_client(stack) as client:
        body = {"user_id": str(user.id), "plan_id": "pro"}
        begun = await client.post("/admin/v1/subscriptions", json=body)
        assert begun.status_code == 201, begun.text
        issued = await client.post("/admin/v1/invoices", json={"subscription_id": begun.json()["id"]})
        assert issued.status_code == 201, issued.text
        return str(issued.json()["id"])


async def test_link_opens_its_invoice_without_a_header(
    stripe_stack: PaymentStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await stripe_stack.create_user()
    invoice, other = await an_invoice(stripe_stack, user), UUID(int=7)
    async with await stripe_stack.client_for(user) as client:
        made = await client.post(f"/me/invoices/{invoice}/links")
        assert (await client.post(f"/me/invoices/{other}/links")).status_code == 404
    links, nobody = made.json(), stripe_stack.client
    page, file = await nobody.get(links["html"]), await nobody.get(links["pdf"])
    assert (page.status_code, page.headers["content-type"].split(";")[0]) == (200, "text/html"), page.text
    assert file.content.startswith(b"%PDF")
    assert re.fullmatch(r'inline; filename="[\w-]+-\d{6}\.pdf"', file.headers["content-disposition"])
    token = links["pdf"].partition("?")[2]
    for path in (f"/me/invoices/{other}/pdf", f"/me/invoices/{invoice}", "/me/invoices", "/me", "/me/keys"):
        assert (await nobody.get(f"{path}?{token}")).status_code == 401, path
    assert (await nobody.get(f"{links['pdf']}x")).status_code == 401
    late = clock.now() + invoice_links.LIFETIME + timedelta(minutes=1)
    monkeypatch.setattr("jwt.api_jwt.datetime", _At(late))
    assert (await nobody.get(links["pdf"])).status_code == 401


class _At:
    """The clock by which tokens end."""

    def __init__(self, instant: object) -> None:
        self._instant = instant

    def now(self, tz: object = None) -> object:
        del tz
        return self._instant


async def test_link_of_another_owner_finds_nothing(stripe_stack: PaymentStack) -> None:
    """As after an invoice was given to somebody else, which never happens."""
    owner, other = await stripe_stack.create_user(), await stripe_stack.create_user()
    invoice = await an_invoice(stripe_stack, owner)
    token, _ = invoice_links.token_for("secret-of-the-tests", other.id, UUID(invoice))
    assert (await stripe_stack.client.get(f"/me/invoices/{invoice}/pdf?token={token}")).status_code == 404
