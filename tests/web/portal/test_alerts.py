"""The page of alerts shows and changes what the API has."""

from __future__ import annotations

import re

from tests.web.portal.visitors import PortalStack


def _checked(text: str) -> list[str]:
    return re.findall(r'name="percents" type="checkbox" value="(\d+)" checked', text)


async def test_alerts_are_chosen_by_a_form(stack: PortalStack) -> None:
    customer = await stack.customer()
    assert _checked(await customer.get("/alerts")) == ["80", "100"]
    saved = await customer.follow(await customer.submit("/alerts", percents=["50", "90"], balance_below="1,500"))
    assert _checked(saved) == ["50", "90"]
    assert 'value="1500"' in saved
    none = await customer.follow(await customer.submit("/alerts"))
    assert (_checked(none), 'name="balance_below" type="text" value=""' in none) == ([], True)


async def test_alert_that_cannot_be_is_explained_and_kept(stack: PortalStack) -> None:
    customer = await stack.customer()
    text = (await customer.submit("/alerts", status=422, percents="50", balance_below="few")).text
    assert _checked(text) == ["50"]
    assert 'value="few"' in text
    assert 'aria-invalid="true"' in text
    assert _checked(await customer.get("/alerts")) == ["80", "100"], "nothing was saved"
