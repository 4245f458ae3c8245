"""Pages that make or spend something do so once for each form that they showed, however often it is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps

from starlette.responses import Response

from gateway.api.account.sent_forms import EarlierResponse, SentForm, carry_out_once
from gateway.api.key_factory import KeyFactory
from gateway.web.pages import TOKEN_FIELD, Page
from gateway.web.portal.customer import Customer

_SECRETS = frozenset({TOKEN_FIELD, "password", "key"})


def once(*, repeats_to: str | None = None) -> Callable[[Page[Customer]], Page[Customer]]:
    """A repeat is answered as the first one was, or led to the page `repeats_to`.

    A form without an id, of a script for instance, is carried out each time.
    """
    return partial(_once, None if repeats_to is None else EarlierResponse(303, repeats_to.encode()))


def _once(repeats: EarlierResponse | None, page: Page[Customer]) -> Page[Customer]:
    @wraps(page)
    async def serve(customer: Customer) -> Response:
        visit = customer.visit
        form_id = visit.form.text("once")
        if form_id is None:
            return await page(customer)

        async def carry_out(key_factory: KeyFactory) -> Response:
            account = replace(customer.portal.account, key_factory=key_factory)
            return await page(replace(customer, portal=replace(customer.portal, account=account)))

        fields = f"{visit.request.url.path}?{visit.form.encoded(without=_SECRETS)}".encode()
        sent = SentForm(f"user:{customer.me.id}", form_id, fields)
        found = await carry_out_once(customer.portal.account, sent, carry_out, repeats=repeats)
        return visit.repeat(found.status, found.body) if isinstance(found, EarlierResponse) else found

    return serve
