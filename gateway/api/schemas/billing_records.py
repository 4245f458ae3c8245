"""Response models of payments, invoices and price tiers, the same for their owner and for an operator."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field, PlainSerializer, field_validator

from gateway.api.schemas.pages import ResponseModel
from gateway.ledger.catalogue import plans
from gateway.ledger.invoicing import invoices
from policies.billing.invoicing import LineKind
from policies.billing.issuing import buyer_from_json
from policies.billing.money import CreditValue, plain

Amount = Annotated[Decimal, PlainSerializer(plain, return_type=str)]


class Tier(ResponseModel):
    up_to: int | None = Field(description="The tier's last unit; null: all the rest.")
    unit_price: str
    flat_price: str

    @classmethod
    def of(cls, tier: plans.Tier) -> Tier:
        return cls(up_to=tier.up_to, unit_price=plain(tier.unit_price), flat_price=plain(tier.flat_price))


class PriceDifference(ResponseModel):
    provider: str
    field: str = Field(description="price, currency, interval, usage, is_active or price_id")
    offered: str = Field(description="By the plan.")
    charged: str = Field(description="By the provider.")


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
    kind: LineKind = Field(default=LineKind.PLAN, description="What the line asks for.")
    period_start: datetime | None = Field(
        default=None, description="Of the time that a line is for which is no period."
    )
    period_end: datetime | None = None


class InvoiceSeller(BaseModel):
    """As configured at the time of issue; empty fields are left out of the document."""

    name: str = ""
    address: list[str] = []
    tax_id: str = ""
    email: str = ""
    bank: list[str] = []
    time_zone: str = "UTC"


class InvoiceBuyer(BaseModel):
    """The account at the time of issue."""

    name: str = ""
    company: str = ""
    email: str = ""
    address: list[str] = []
    vat_id: str = ""
    time_zone: str = "UTC"


class Invoice(ResponseModel):
    id: UUID
    number: int | None = Field(description="Without gaps, in order of issue; null for the provider's own invoices.")
    full_number: str | None = Field(description="As it is printed, with prefix and year.", examples=["INV-2026-000012"])
    provider_number: str | None
    user_id: UUID
    subscription_id: UUID | None
    plan_id: str | None = Field(description="The plan at the time of issue.")
    status: str = Field(description="draft, open, paid, void or uncollectible")
    currency: str
    subtotal: str
    tax: str
    total: str
    amount_paid: str
    amount_credited: str = Field(description="The sum of its credit notes.")
    amount_due: str = Field(description="What is still to be paid of an open invoice.")
    tax_rate: str
    lines: list[InvoiceLine]
    period_start: datetime | None
    period_end: datetime | None
    issued_at: datetime | None
    due_at: datetime | None
    paid_at: datetime | None = Field(description="Null where nothing was paid, as where all was credited.")
    seller: InvoiceSeller | None
    buyer: InvoiceBuyer | None
    provider: str
    url: str | None = Field(description="The provider's page of it.")
    corrects_id: UUID | None = Field(description="The invoice that this credit note takes back, in part or whole.")
    reason: str | None = Field(description="Of a credit note.")
    created_at: datetime

    @field_validator(
        *("subtotal", "tax", "total", "amount_paid", "amount_credited", "amount_due", "tax_rate"), mode="before"
    )
    @classmethod
    def _format_amounts(cls, amount: object) -> object:
        return plain(amount) if isinstance(amount, Decimal) else amount


class InvoiceRow(ResponseModel):
    """An invoice as a row of CSV, without its lines."""

    id: UUID
    number: int | None
    full_number: str | None
    provider_number: str | None
    issued_at: datetime | None
    due_at: datetime | None
    paid_at: datetime | None
    status: str
    user_id: UUID
    buyer_name: str
    buyer_company: str
    buyer_email: str
    buyer_vat_id: str
    subscription_id: UUID | None
    plan_id: str | None
    currency: str
    subtotal: Amount
    tax_rate: Amount
    tax: Amount
    total: Amount
    amount_paid: Amount
    amount_credited: Amount
    amount_due: Amount
    period_start: datetime | None
    period_end: datetime | None
    provider: str
    corrects_id: UUID | None
    reason: str | None
    created_at: datetime

    @classmethod
    def of(cls, invoice: invoices.Invoice) -> InvoiceRow:
        buyer = buyer_from_json(invoice.buyer or {})
        named = {f"buyer_{name}": getattr(buyer, name) for name in ("name", "company", "email", "vat_id")}
        own = {name: getattr(invoice, name) for name in cls.model_fields if not name.startswith("buyer_")}
        return cls(**own, **named)
