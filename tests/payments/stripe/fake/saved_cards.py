"""Cards that customers save, and payments by them while nobody is there, as Stripe has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.payments.stripe.fake.changes import Refusal

if TYPE_CHECKING:
    from tests.payments.fake_stripe import FakeStripe

Object = dict[str, Any]


class FakeSavedCards:
    """How a card behaves is what `cards` says of its customer."""

    def __init__(self, world: FakeStripe) -> None:
        self._world = world

    def open_setup(self, params: Object) -> Object:
        self._world.check_customer(params["customer"])
        made = self._world.new(
            "cs", "checkout.session", mode="setup", status="open", customer=params["customer"], setup_intent=None
        )
        made["url"] = f"https://checkout.test/{made['id']}"
        return made

    def save(self, session_id: str) -> str:
        """The customer enters a card there. Gives its id."""
        session = self._world.objects[session_id]
        card = {"brand": "visa", "last4": "4242"}
        method = self._world.new("pm", "payment_method", type="card", customer=session["customer"], card=card)
        intent = self._world.new("seti", "setup_intent", status="succeeded", payment_method=method["id"])
        session.update(status="complete", setup_intent=intent["id"])
        self._world.emit("checkout.session.completed", session)
        return str(method["id"])

    def remove(self, method_id: str) -> None:
        """The customer removes it in the portal of Stripe."""
        method = self._world.objects[method_id]
        method["customer"] = None
        self._world.emit("payment_method.detached", method)

    def charge(self, params: Object) -> Object:
        method = self._world.objects[params["payment_method"]]
        if method["customer"] != params["customer"]:
            raise Refusal(400, "The payment method does not belong to the customer.")
        assert (params["off_session"], params["confirm"]) == ("true", "true")
        amount, behaves = int(params["amount"]), self._world.cards.get(params["customer"], "good")
        if behaves == "good":
            intent = self._world.pay_intent(params["customer"], amount, metadata=params["metadata"])
            self._world.emit("payment_intent.succeeded", intent)
            return intent
        code = "card_declined" if behaves == "declined" else "authentication_required"
        said = "Your card was declined." if behaves == "declined" else "Your card was declined. It needs your approval."
        intent = self._world.new(
            "pi",
            "payment_intent",
            customer=params["customer"],
            amount=amount,
            status="requires_payment_method",
            metadata=params["metadata"],
            last_payment_error={"code": code, "message": said},
            latest_charge=None,
        )
        self._world.emit("payment_intent.payment_failed", intent)
        raise Refusal(402, said, code=code)

    def list_intents(self, wanted: Object) -> list[Object]:
        since = int(wanted["created"]["gte"])
        found = reversed(self._world.list_all("payment_intent"))
        return [each for each in found if each["customer"] == wanted["customer"] and each["created"] >= since]

    def charged(self, customer_id: str) -> list[Object]:
        """The payments of top-ups that took money, the oldest first."""
        found = self._world.list_all("payment_intent")
        of_top_ups = [each for each in found if "gateway_top_up" in (each["metadata"] or {})]
        return [each for each in of_top_ups if each["customer"] == customer_id and each["status"] == "succeeded"]
