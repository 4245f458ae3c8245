"""What the coupon of a form, or of the page's address, gives for what is on offer."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.api.account.billing.coupons import CouponPreview, WantedOffer, preview_coupon
from gateway.web.forms import Form
from gateway.web.portal.customer import Customer


async def find_previews(
    page: Customer, form: Form, *, plans: Iterable[str], packs: Iterable[str]
) -> dict[str, CouponPreview]:
    """By `plan ID` and `pack ID`, for what it holds for. Where that is nothing, the form says why."""
    code = form.shown("coupon").strip()
    if not code or form.error("coupon"):
        return {}
    found: dict[str, CouponPreview] = {}
    tried = Form()
    for kind, sold in (("plan", plans), ("pack", packs)):
        for each in sold:
            preview = await tried.submit(lambda wanted={"code": code, kind: each}: _preview(page, wanted))  # type: ignore[misc]
            if preview is not None:
                found[f"{kind} {each}"] = preview
    if not found:
        reason = tried.errors.get("coupon") or tried.errors.get("code") or "It is for nothing that is sold here."
        form.errors["coupon"] = reason
    return found


async def _preview(page: Customer, wanted: dict[str, str]) -> CouponPreview:
    return await preview_coupon(WantedOffer.model_validate(wanted), page.me, page.portal.checkout_service)
