"""The plan of a customer and credits: compare, subscribe, change, end; buy packs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal
from uuid import UUID

from starlette.responses import Response

from gateway.api.account.billing import checkout, plan_changes, plans, subscriptions, top_up
from gateway.api.account.billing.checkout import NewCheckout
from gateway.api.account.billing.coupons import CouponPreview, WantedOffer, preview_coupon
from gateway.api.account.billing.own_subscription import OwnSubscription
from gateway.api.account.billing.plan_changes import PlanChange
from gateway.api.account.billing.plans import OfferedPlan
from gateway.api.account.billing.subscriptions import Ending, Order
from gateway.api.account.records import ledger, limits
from gateway.api.error_responses import ANSWERED
from gateway.api.errors import NotFound, Throttled
from gateway.api.selling.coupons import UnknownCode
from gateway.web.forms import Form
from gateway.web.pages import PageRoutes
from gateway.web.portal.customer import Customer
from gateway.web.portal.home import own_subscription

ROWS = 25

customers: PageRoutes[Customer] = PageRoutes()


@customers.get("/plan")
async def show_plan(page: Customer) -> Response:
    return await _render(page, Form(defaults={"coupon": page.visit.request.query_params.get("coupon")}))


@customers.post("/plan/subscribe")
async def subscribe(page: Customer) -> Response:
    form, portal = page.visit.form, page.portal

    async def call() -> subscriptions.BegunSubscription:
        seats = form.whole("quantity") if form.text("quantity") else 1
        order = Order.model_validate({"quantity": seats, "coupon": form.text("coupon")})
        plan_id = form.required("plan_id")
        return await subscriptions.subscribe(plan_id, page.me, portal.account, portal.checkout_service, order)

    begun = await form.submit(call)
    if begun is None:
        return await _render(page, form)
    if begun.checkout_url is not None:
        return _to_provider(page, begun.checkout_url, f"the plan {begun.plan_id}")
    return page.visit.redirect("/plan", f"You are on the plan {begun.plan_id}.")


@customers.get("/plan/change")
async def show_change(page: Customer) -> Response:
    wanted = page.visit.request.query_params.get("plan", "")
    offered = {plan.id: plan for plan in (await plans.list_plans(page.portal.account, page.me.id)).data}
    if wanted not in offered:
        raise NotFound("plan", wanted)
    form = Form(defaults={"when": "now"})
    return page.visit.render("portal/plan_change.html", plan=offered[wanted], subscription=await _own(page), form=form)


@customers.post("/plan/change")
async def submit_change(page: Customer) -> Response:
    form, portal = page.visit.form, page.portal

    async def call() -> plan_changes.ChangedSubscription:
        fields = {"plan_id": form.required("plan_id"), "at_period_end": form.raw("when") == "period_end"}
        body = PlanChange.model_validate(fields | {"quantity": form.whole("quantity")})
        subscription = await _own(page)
        return await plan_changes.change_plan(subscription.id, body, page.me, portal.account, portal.checkout_service)

    changed = await form.submit(call)
    if changed is None:
        return await _refused_change(page, form)
    if changed.confirmation_url is not None:
        return _to_provider(page, changed.confirmation_url, f"the plan {form.required('plan_id')}")
    if changed.next_plan_id is not None:
        return page.visit.redirect("/plan", f"The plan {changed.next_plan_id} begins with the next period.")
    return page.visit.redirect("/plan", f"You are on the plan {changed.plan_id}.")


async def _refused_change(page: Customer, form: Form) -> Response:
    """The form as it was sent; the page of all plans where there is none for it."""
    offered = {plan.id: plan for plan in (await plans.list_plans(page.portal.account, page.me.id)).data}
    plan, subscription = offered.get(form.required("plan_id")), await own_subscription(page)
    if plan is None or subscription is None:
        return await _render(page, form)
    context = {"plan": plan, "subscription": subscription, "form": form}
    return page.visit.render("portal/plan_change.html", status=form.status, **context)


@customers.get("/plan/end")
async def show_end(page: Customer) -> Response:
    return page.visit.render("portal/plan_end.html", subscription=await _own(page), form=Form())


@customers.post("/plan/end")
async def submit_end(page: Customer) -> Response:
    form, portal, found = page.visit.form, page.portal, await _own(page)
    is_now = form.raw("when") == "now"

    async def call() -> OwnSubscription | None:
        if is_now and not await page.prove(form):
            return None
        ending = Ending(now=is_now)
        return await subscriptions.end_subscription(
            found.id, ending, page.me, portal.account, checkout_service=portal.checkout_service
        )

    if await form.submit(call) is None:
        context = {"subscription": found, "form": form}
        return page.visit.render("portal/plan_end.html", status=form.status, **context)
    return page.visit.redirect("/plan", "Your subscription has ended." if is_now else "It ends with its period.")


@customers.post("/plan/undo-end")
async def undo_end(page: Customer) -> Response:
    return await _undo(page, subscriptions.undo_cancellation, "Your subscription goes on.")


@customers.post("/plan/undo-change")
async def undo_change(page: Customer) -> Response:
    return await _undo(page, plan_changes.undo_change, "You keep your plan.")


@customers.post("/plan/buy")
async def buy_pack(page: Customer) -> Response:
    form, portal = page.visit.form, page.portal

    async def call() -> checkout.Checkout:
        body = NewCheckout.model_validate({"pack": form.required("pack"), "coupon": form.text("coupon")})
        return await checkout.buy_credits(body, page.me, portal.account, portal.checkout_service)

    bought = await form.submit(call)
    if bought is None or bought.url is None:
        return await _render(page, form)
    return _to_provider(page, bought.url, f"{bought.credits} credits")


@customers.post("/plan/provider")
async def open_provider(page: Customer) -> Response:
    """Cards and billing addresses are the provider's own pages."""
    form, portal = page.visit.form, page.portal
    link = await form.submit(lambda: checkout.open_portal(page.me, portal.account, portal.checkout_service, None))
    return await _render(page, form) if link is None else _to_provider(page, link.url, "your cards and details")


@customers.get("/paid")
async def show_paid(page: Customer) -> Response:
    """Where a provider leads back to: asks it what became of the checkout."""
    try:
        checkout_id = UUID(page.visit.request.query_params.get("checkout", ""))
    except ValueError:
        return page.visit.redirect("/plan")
    portal = page.portal
    found = await checkout.confirm_checkout(checkout_id, page.me, portal.account, portal.checkout_service)
    return page.visit.render("portal/paid.html", checkout=found)


@customers.get("/credits")
async def show_credits(page: Customer) -> Response:
    cursor = page.visit.request.query_params.get("cursor")
    return page.visit.render(
        "portal/credits.html", entries=await ledger.entries(page.me.id, page.portal.account)(cursor, ROWS)
    )


@customers.get("/credits.csv")
async def download_credits(page: Customer) -> Response:
    return ledger.as_csv(ledger.entries(page.me.id, page.portal.account))


async def _render(page: Customer, form: Form) -> Response:
    account, service = page.portal.account, page.portal.checkout_service
    offered = (await plans.list_plans(account, page.me.id)).data
    packs = (await checkout.list_packs(page.me, service)).data
    previews = await _previews(page, form, plans=[plan.id for plan in offered], packs=[pack.id for pack in packs])
    return page.visit.render(
        "portal/plan.html",
        status=form.status,
        form=form,
        subscription=await own_subscription(page),
        plans=offered,
        free_plans={plan.id for plan in offered if _is_free(plan)},
        packs=packs,
        coupon=form.shown("coupon").strip().upper(),
        previews=previews,
        limits=await limits.get_limits(page.me.id, None, account),
        can_pay=bool(service.providers),
        can_top_up=top_up.can_top_up(service),
    )


def _is_free(plan: OfferedPlan) -> bool:
    """A subscription that nobody bills changes to such a plan with its period; to any other it is paid for."""
    return Decimal(plan.price) == 0 and plan.pricing_model in ("flat", "per_seat") and plan.overage is None


async def _previews(
    page: Customer, form: Form, *, plans: Iterable[str], packs: Iterable[str]
) -> dict[str, CouponPreview]:
    """By `plan ID` and `pack ID`, for what it holds for. Where that is nothing, the form says why."""
    code = form.shown("coupon").strip()
    if not code or form.error("coupon"):
        return {}
    offers = [("plan", each) for each in plans] + [("pack", each) for each in packs]
    found, tried = dict[str, CouponPreview](), Form()

    async def try_all() -> bool:
        reason: Exception | None = None
        for kind, each in offers:
            try:
                found[f"{kind} {each}"] = await _preview(page, {"code": code, kind: each})
            except (UnknownCode, Throttled):
                raise
            except ANSWERED as refused:
                reason = refused
        if reason is not None and not found:
            raise reason
        return True

    await tried.submit(try_all)
    if not found:
        reason = tried.errors.get("coupon") or tried.errors.get("code") or tried.message
        form.errors["coupon"] = reason or "It is for nothing that is sold here."
    return found


async def _preview(page: Customer, wanted: dict[str, str]) -> CouponPreview:
    return await preview_coupon(WantedOffer.model_validate(wanted), page.me, page.portal.checkout_service)


async def _own(page: Customer) -> OwnSubscription:
    """Raises NotFound."""
    return await subscriptions.get_my_subscription(page.me)


async def _undo(page: Customer, call: Callable[..., Awaitable[OwnSubscription]], message: str) -> Response:
    form, portal = page.visit.form, page.portal
    found = await _own(page)
    done = await form.submit(lambda: call(found.id, page.me, portal.account, portal.checkout_service))
    return await _render(page, form) if done is None else page.visit.redirect("/plan", message)


def _to_provider(page: Customer, url: str, what: str) -> Response:
    return page.visit.render("portal/to_provider.html", url=url, what=what)
