"""Coupons and promotion codes as Stripe has them, and what a session with one costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.payments.stripe.fake.changes import Refusal

if TYPE_CHECKING:
    from tests.payments.fake_stripe import FakeStripe

Object = dict[str, Any]


class FakePromotions:
    """`refused` is what Stripe says of every promotion code instead of making it."""

    def __init__(self, world: FakeStripe) -> None:
        self._world = world
        self.refused: str | None = None

    def create_coupon(self, params: Object) -> Object:
        if params["id"] in self._world.objects:
            raise Refusal(400, "Coupon already exists.", code="resource_already_exists")
        if ("percent_off" in params) == ("amount_off" in params):
            raise Refusal(400, "You must pass either percent_off or amount_off")
        if (params["duration"] == "repeating") != ("duration_in_months" in params):
            raise Refusal(400, "duration_in_months is for repeating coupons")
        self._world.objects[params["id"]] = {"object": "coupon", **params}
        return self._world.objects[params["id"]]

    def create_code(self, params: Object) -> Object:
        if self.refused is not None:
            raise Refusal(400, self.refused)
        coupon = params["promotion"]["coupon"]
        if coupon not in self._world.objects:
            raise Refusal(400, f"No such coupon: '{coupon}'", code="resource_missing", param="promotion[coupon]")
        self._world.check_customer(params["customer"])
        taken = [each for each in self._world.list_all("promotion_code") if each["code"] == params["code"]]
        if any(each["customer"] == params["customer"] and each["active"] for each in taken):
            raise Refusal(400, "An active promotion code with that code already exists.")
        expires_at, allowed = int(params.pop("expires_at")), int(params.pop("max_redemptions"))
        fields = {**params, "expires_at": expires_at, "max_redemptions": allowed, "times_redeemed": 0, "active": True}
        return self._world.new("promo", "promotion_code", **fields)

    def apply(self, session: Object, params: Object) -> None:
        """What the codes of a new session take off."""
        if "discounts" not in params:
            return
        if "allow_promotion_codes" in params:
            raise Refusal(400, "You may only specify one of these parameters: allow_promotion_codes, discounts.")
        code = self._world.objects[params["discounts"]["0"]["promotion_code"]]
        if code["customer"] != session["customer"] or not code["active"]:
            raise Refusal(400, "This promotion code cannot be redeemed.")
        coupon = self._world.objects[code["promotion"]["coupon"]]
        off = round(session["_amount"] * float(coupon.get("percent_off", 0)) / 100) + int(coupon.get("amount_off", 0))
        session["_code"], session["_coupon"] = code["id"], coupon["id"]
        self._world.enter_code(session["id"], off=min(off, session["_amount"]))

    def redeem(self, session: Object) -> None:
        """The session is paid. Stripe refuses a session that has ended, and a code that is used up."""
        assert session["status"] == "open", "nobody can pay at a session that has ended"
        if "_code" not in session:
            return
        code = self._world.objects[session["_code"]]
        assert code["active"], "nobody can use the code twice"
        code["times_redeemed"] += 1
        code["active"] = code["times_redeemed"] < code["max_redemptions"]

    def expire_session(self, session: Object) -> Object:
        if session["status"] != "open":
            raise Refusal(
                400, f'Only Checkout Sessions with a status in ["open"] can be expired, not {session["status"]}'
            )
        session["status"] = "expired"
        self._world.emit("checkout.session.expired", session)
        return {name: value for name, value in session.items() if not name.startswith("_")}
