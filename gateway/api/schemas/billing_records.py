"""Response models of payments, invoices and price tiers, the same for their owner and for an operator."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from pydantic import Field, field_validator

from gateway.api.schemas.pages import ResponseModel
from gateway.ledger.catalogue import plans
from policies.billing.money import CreditValue, plain


class Tier(ResponseModel):
    up_to: int | None = Field(description="The tier's last unit; null: all the rest.")
    unit_price: str
    flat_price: str

    @classmethod
    def of(cls, tier: plans.Tier) -> Tier:
        return cls(up_to=tier.up_to, unit_price=plain(tier.unit_price), flat_price=plain(tier.flat_price))


class ShownAs(ResponseModel):
    """Credits as money, by `credits.shown_as`; null where that is not configured."""

    currency: str = Field(examples=["USD"])
    amount: str = Field(examples=["1.23"])

    @classmethod
    def of_balance(cls, value: CreditValue | None, credits: int) -> ShownAs | None:
        return None if value is None else cls(currency=value.currency, amount=plain(value.amount(credits)))

    @classmethod
    def of_call(cls, value: CreditValue | None, credits: int) -> ShownAs | None:
        return None if value is None else cls(currency=value.currency, amount=plain(value.fine_amount(credits)))


class Payment(ResponseModel):
    id: UUID
    user_id: UUID
    subscription_id: UUID | None
    plan_id: str | None
    invoice_id: UUID | None
    provider: str
    provider_payment_id: str | None
    transaction_type: str = Field(description="subscription, credits, refund or dispute")
    status: str = Field(description="pending, completed, failed, refunded, partially_refunded or disputed")
    amount: str = Field(examples=["29.99"])
    refunded_amount: str
    currency: str
    payment_method: str | None
    credits_awarded: int
    credits_withdrawn: int = Field(description="Of those awarded, taken back for refunds and disputes.")
    refers_to_id: UUID | None = Field(description="The payment that a refund or dispute is of.")
    description: str | None
    error_message: str | None
    processed_at: datetime | None
    created_at: datetime

    @field_validator("amount", "refunded_amount", mode="before")
    @classmethod
    def _format_amounts(cls, amount: object) -> object:
        return plain(amount) if isinstance(amount, Decimal) else amount


class InvoiceLine(ResponseModel):
    description: str
    quantity: int
    unit_price: str | None
    amount: str


class Invoice(ResponseModel):
    id: UUID
    number: int | None = Field(description="Without gaps, in order of issue; null for the provider's own invoices.")
    provider_number: str | None
    user_id: UUID
    subscription_id: UUID | None
    status: str = Field(description="draft, open, paid, void or uncollectible")
    currency: str
    subtotal: str
    tax: str
    total: str
    tax_rate: str
    lines: list[InvoiceLine]
    period_start: datetime | None
    period_end: datetime | None
    issued_at: datetime | None
    paid_at: datetime | None
    provider: str
    url: str | None = Field(description="The provider's page of it.")
    corrects_id: UUID | None = Field(description="The invoice that this credit note takes back.")
    created_at: datetime

    @field_validator("subtotal", "tax", "total", "tax_rate", mode="before")
    @classmethod
    def _format_amounts(cls, amount: object) -> object:
        return plain(amount) if isinstance(amount, Decimal) else amount
