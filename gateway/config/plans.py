"""Plans and billing of gateway.yaml, and the four default plans that apply where it has none.

All fields that have a payment provider's id are here, named as in `policies/billing/providers.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gateway.config.quantities import (
    Amount,
    Currency,
    Duration,
    Flag,
    Kind,
    NotNegative,
    Positive,
    Size,
    Text,
    Timeout,
    Url,
    Word,
    about,
    zone_name,
)
from policies.billing.money import exponent, fits, plain
from policies.billing.overage import Overage, objection
from policies.billing.periods import LONGEST, LONGEST_TRIAL_DAYS
from policies.model import FeatureValue

PricingModel = Literal["flat", "per_seat", "tiered", "volume", "usage"]
PastDueWord = Literal["serve", "purchased_only", "stop"]
BillingInterval = Literal["day", "week", "month", "year"]

# Limits are kept in 32 bits, credits and sizes in 64 (PostgreSQL's integer and bigint).
_Limit = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1), Kind("whole number from 0")]
# Scripts compute in doubles; what the admin API takes too.
_Credits = Annotated[int, Field(strict=True, ge=0, le=10**12), Kind("whole number from 0 to 10^12")]
_PositiveCredits = Annotated[int, Field(strict=True, ge=1, le=10**12), Kind("whole number from 1 to 10^12")]
_THE_REST = 2**63
_FEATURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def _features(written: object) -> dict[str, FeatureValue]:
    """A list of names, each of them true, or a map from name to true, false, a whole number or a word."""
    given = written if isinstance(written, Mapping) else _each_true(written)
    for name, value in given.items():
        if not isinstance(name, str) or not _FEATURE.fullmatch(name):
            raise ValueError(f"feature names are letters, digits, '.', '_' and '-', got {name!r}")
        if not isinstance(value, bool | int | str):
            raise ValueError(f"feature {name} must be true, false, a whole number or text, got {value!r}")
    return dict(given)


def _each_true(value: object) -> dict[str, FeatureValue]:
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return dict.fromkeys(value, True)
    raise ValueError("must be a list of feature names, or a map such as {analysis: true, seats: 5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSpec:
    up_to: Annotated[Positive | None, about("Last unit of the tier; null: all the rest.")] = None
    unit_price: Annotated[Amount, about("Price of each unit.")]
    flat_price: Annotated[Amount, about("Price of the tier itself, once.")] = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverageSpec:
    credits: Annotated[_PositiveCredits, about("How far below zero a balance may go.")]
    price: Annotated[Amount | None, about("Price of each credit below zero; null: priced by usage as all others.")] = (
        None
    )
    stripe_price_id: Annotated[Text | None, about("Metered price that bills them at Stripe.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSpec:
    id: Annotated[Word, about("Name for machines, unique.")]
    name: Annotated[str, Field(min_length=1, max_length=200), about("Name for customers, unique.")]
    price: Annotated[Amount, about("Price of a billing interval, seat or unit; 0 where tiers price it.")]
    description: Annotated[str | None, about("Text for customers.")] = None
    currency: Annotated[Currency, about("Currency of the prices.")] = "USD"
    billing_interval: Annotated[BillingInterval, about("Unit of the billing interval.")] = "month"
    billing_interval_count: Annotated[
        int, Field(strict=True, ge=1, le=2**31 - 1), Kind("whole number from 1"), about("Units in a billing interval.")
    ] = 1
    trial_period_days: Annotated[_Limit, about("Days before the first payment.")] = 0
    credits_per_period: Annotated[_Credits, about("Credits that each billing interval gives.")] = 0
    credits_rollover: Annotated[Flag, about("Whether unused credits outlast the interval.")] = False
    requests_per_minute: Annotated[_Limit | None, about("Calls in any minute; null: no limit.")] = None
    requests_per_hour: Annotated[_Limit | None, about("Calls in any hour; null: no limit.")] = None
    max_api_calls_per_day: Annotated[_Limit | None, about("Calls in any 24 hours; null: no limit.")] = None
    max_concurrent_requests: Annotated[_Limit | None, about("Calls at the same time; null: no limit.")] = None
    max_products_per_batch: Annotated[_Limit | None, about("Items of one call; null: no limit.")] = None
    max_file_size_bytes: Annotated[Size | None, about("Longest request body; null: no limit.")] = None
    max_credits_per_call: Annotated[
        _PositiveCredits | None,
        about("The most that one call is charged, whatever its upstream reports; null: no limit."),
    ] = None
    features: Annotated[
        dict[str, FeatureValue],
        BeforeValidator(_features),
        Kind("list of names, or map of names and values"),
        about("Features that routes need, and values that customers are shown."),
    ] = field(default_factory=dict)
    permissions: Annotated[
        frozenset[Word] | None, about("Permissions that routes need; null: those of all routes that name one.")
    ] = None
    pricing_model: Annotated[PricingModel, about("How invoices compute the price.")] = "flat"
    tiers: Annotated[
        tuple[TierSpec, ...], about("Tiers of seats (models `tiered` and `volume`) or of usage (`usage`), rising.")
    ] = ()
    tiers_mode: Annotated[Literal["graduated", "volume"] | None, about("How tiers price usage; null: `graduated`.")] = (
        None
    )
    overage: Annotated[OverageSpec | None, about("Usage beyond the credits, which is billed; null: none.")] = None
    stripe_price_id: Annotated[Text | None, about("Price at Stripe; null: not sold there.")] = None
    lemon_squeezy_variant_id: Annotated[Text | None, about("Variant at Lemon Squeezy; null: not sold there.")] = None
    lemon_squeezy_product_id: Annotated[Text | None, about("Product of that variant.")] = None
    is_active: Annotated[Flag, about("Whether new subscriptions can start.")] = True
    sort_order: Annotated[NotNegative, Field(le=2**31 - 1), about("Place in lists of plans.")] = 0
    past_due: Annotated[
        PastDueWord,
        about(
            "What it gives from a failed renewal until that is paid or the grace is over: `serve` advances the credits"
            " of the unpaid period, `purchased_only` gives access without them, `stop` refuses calls."
        ),
    ] = "purchased_only"
    fallback_plan: Annotated[
        Word | None,
        about("Plan whose limits and features hold once a subscription has ended, for credits that are left."),
    ] = None

    def __post_init__(self) -> None:
        overage = None if self.overage is None else Overage(self.overage.credits, self.overage.price)
        if (wrong := objection(overage, pricing_model=self.pricing_model)) is not None:
            raise ValueError(f"overage: {wrong}")
        self._check_tiers()
        if self.trial_period_days > LONGEST_TRIAL_DAYS:
            raise ValueError(f"trial_period_days: at most {LONGEST_TRIAL_DAYS}")
        if self.billing_interval_count > (longest := LONGEST[self.billing_interval]):
            raise ValueError(f"billing_interval_count: at most {longest} of {self.billing_interval}")
        amounts = [] if self.pricing_model == "usage" else [self.price]
        for amount in (*amounts, *(tier.flat_price for tier in self.tiers)):
            _check_fits(amount, self.currency)

    def _check_tiers(self) -> None:
        if self.tiers_mode is not None and not (self.tiers and self.pricing_model == "usage"):
            raise ValueError("tiers_mode is for tiers of pricing_model usage")
        if self.pricing_model in ("tiered", "volume") and not self.tiers:
            raise ValueError(f"pricing_model {self.pricing_model} needs tiers")
        if self.tiers and self.price and self.pricing_model not in ("flat", "per_seat"):
            raise ValueError("price must be 0 where tiers price the plan: nobody would be charged it")
        if self.tiers and self.pricing_model in ("flat", "per_seat"):
            raise ValueError(f"tiers need pricing_model tiered, volume or usage, not {self.pricing_model}")
        bounds = [tier.up_to or _THE_REST for tier in self.tiers]
        if any(low >= high for low, high in pairwise(bounds)):
            raise ValueError("tiers must rise by up_to; only the last may leave it out")
        if self.tiers and self.tiers[-1].up_to is not None:
            raise ValueError("the last of the tiers must leave up_to out, or whatever exceeds it has no price")


def _check_fits(amount: Decimal, currency: str) -> None:
    """Prices of units may be finer: only their sum is paid."""
    if not fits(amount, currency):
        raise ValueError(f"{plain(amount)} is no amount of {currency}: it has {exponent(currency)} decimal digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stripe:
    api_base: Annotated[Url, about("Stripe's API.")] = "https://api.stripe.com"
    meter_event_name: Annotated[Word, about("Event name of the meter that bills plans priced by usage.")] = (
        "gateway_credits"
    )
    automatic_tax: Annotated[Flag, about("Whether Stripe computes the tax of checkouts (Stripe Tax).")] = False
    tax_id_collection: Annotated[Flag, about("Whether checkouts ask companies for their tax id.")] = False
    promotion_codes: Annotated[Flag, about("Whether checkouts take promotion codes.")] = False
    billing_address: Annotated[
        Literal["auto", "required"], about("Whether checkouts ask for the address always, or where Stripe needs it.")
    ] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class LemonSqueezy:
    api_base: Annotated[Url, about("Lemon Squeezy's API.")] = "https://api.lemonsqueezy.com"
    store_id: Annotated[Text | None, about("Id of the store that sells.")] = None
    # The key itself does not tell which mode it is of.
    test_mode: Annotated[Flag, about("Whether the API key is of test mode.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    id: Annotated[Word, about("Name for machines, unique among the packs.")]
    name: Annotated[str, about("Name for buyers.")]
    credits: Annotated[_PositiveCredits, about("Credits that it gives.")]
    price: Annotated[Amount, about("Price before tax.")]
    currency: Annotated[Currency, about("Currency of the price.")] = "USD"
    stripe_price_id: Annotated[Text | None, about("Price at Stripe; null: not sold there.")] = None
    lemon_squeezy_variant_id: Annotated[Text | None, about("Variant at Lemon Squeezy; null: not sold there.")] = None

    def __post_init__(self) -> None:
        _check_fits(self.price, self.currency)


@dataclass(frozen=True, slots=True, kw_only=True)
class SellerSpec:
    name: Annotated[Text | None, about("Name of the business.")] = None
    address: Annotated[tuple[Text, ...], about("Its address, line by line.")] = ()
    tax_id: Annotated[Text | None, about("VAT id or tax number.")] = None
    email: Annotated[Text | None, about("Address for questions about invoices.")] = None
    bank: Annotated[tuple[Text, ...], about("Where to pay, line by line: holder, IBAN, BIC.")] = ()
    time_zone: Annotated[
        str, BeforeValidator(zone_name), Kind("IANA time zone"), about("Zone of the dates on invoices.")
    ] = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoicing:
    automatic: Annotated[Flag, about("Whether a worker issues an invoice for each ended period.")] = True
    prefix: Annotated[Word, about("First part of the number: INV-2026-000012.")] = "INV"
    due_after_seconds: Annotated[Duration, about("Time to pay.", key="due_after")] = 14 * 86400.0
    close_after_seconds: Annotated[
        Duration, about("Time from a period's end to its invoice, for calls under way.", key="close_after")
    ] = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Billing:
    provider: Annotated[
        Literal["stripe", "lemon_squeezy"] | None,
        about("Provider of buyers who name none; null: the first that has an API key."),
    ] = None
    stripe: Stripe = Stripe()
    lemon_squeezy: LemonSqueezy = LemonSqueezy()
    success_url: Annotated[
        Url | None,
        about(
            "Page that a buyer returns to; null: that of the portal, if `portal.url` is set. Without either nothing can"
            " be bought."
        ),
    ] = None
    cancel_url: Annotated[Url | None, about("Page that a buyer who cancels returns to; null: `success_url`.")] = None
    portal_return_url: Annotated[
        Url | None, about("Page that a customer returns to from the provider's portal; null: `success_url`.")
    ] = None
    past_due_grace_seconds: Annotated[
        Duration, about("Time that a subscription goes on after a failed payment.", key="past_due_grace")
    ] = 3 * 86400.0
    packs: Annotated[tuple[Pack, ...], about("Credits for sale outside a subscription.")] = ()
    tax_rate: Annotated[Amount, Field(le=1), about("Fraction that invoices add, 0 to 1.")] = Decimal(0)
    seller: SellerSpec = SellerSpec()
    invoices: Invoicing = Invoicing()
    poll_interval_seconds: Annotated[
        Timeout, about("Time between two queries of a provider for missed changes.", key="poll_interval")
    ] = 900.0


def default_plans() -> tuple[PlanSpec, ...]:
    """Free to enterprise, each with the features of the one before and its own."""
    plans: list[PlanSpec] = []
    features: dict[str, FeatureValue] = {}
    for order, (name, price, credits_per_period, per_minute, per_hour, in_flight, own) in enumerate(_DEFAULT_PLANS):
        features = features | dict.fromkeys(own, True)
        plans.append(
            PlanSpec(
                id=name,
                name=name,
                price=Decimal(price),
                credits_per_period=credits_per_period,
                requests_per_minute=per_minute,
                requests_per_hour=per_hour,
                max_concurrent_requests=in_flight,
                features=features,
                sort_order=order,
            )
        )
    return tuple(plans)


_DEFAULT_PLANS = (
    ("free", "0", 10, 5, 50, 20, ("analysis", "ai_generation", "csv_upload")),
    ("basic", "9.99", 100, 20, 500, 50, ("enhanced_generation", "email_support")),
    ("pro", "29.99", 1000, 50, 2000, 200, ("priority_support", "custom_templates", "api_access")),
    ("enterprise", "99.99", 10000, 100, 10000, 1000, ("white_label", "custom_integrations", "unlimited_access")),
)
