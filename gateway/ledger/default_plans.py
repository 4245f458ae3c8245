"""The plans a new installation starts with."""

from __future__ import annotations

from decimal import Decimal

from gateway.ledger.plans import PlanTerms

_FREE = ("analysis", "ai_generation", "csv_upload")
_BASIC = (*_FREE, "enhanced_generation", "email_support")
_PRO = (*_BASIC, "priority_support", "custom_templates", "api_access")
_ENTERPRISE = (*_PRO, "white_label", "custom_integrations", "unlimited_access")

DEFAULT_PLANS = (
    PlanTerms(
        name="free",
        price=Decimal("0.00"),
        credits_per_period=10,
        requests_per_minute=5,
        requests_per_hour=50,
        features=dict.fromkeys(_FREE, True),
        sort_order=0,
    ),
    PlanTerms(
        name="basic",
        price=Decimal("9.99"),
        credits_per_period=100,
        requests_per_minute=20,
        requests_per_hour=500,
        features=dict.fromkeys(_BASIC, True),
        sort_order=1,
    ),
    PlanTerms(
        name="pro",
        price=Decimal("29.99"),
        credits_per_period=1_000,
        requests_per_minute=50,
        requests_per_hour=2_000,
        features=dict.fromkeys(_PRO, True),
        sort_order=2,
    ),
    PlanTerms(
        name="enterprise",
        price=Decimal("99.99"),
        credits_per_period=10_000,
        requests_per_minute=100,
        requests_per_hour=10_000,
        features=dict.fromkeys(_ENTERPRISE, True),
        sort_order=3,
    ),
)
