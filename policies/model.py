"""The vocabulary: frozen values that every decision takes and gives, and the closed sets of outcomes and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, get_args
from uuid import UUID

from policies.pricing.price import Price
from policies.pricing.price_list import PriceList

FeatureValue = bool | int | str
# What an admin token, or an operator of the console, may do.
AdminScope = Literal[
    "read",
    "users:write",
    "keys:write",
    "credits:write",
    "plans:write",
    "subscriptions:write",
    "billing:write",
    "admin:write",
]
ADMIN_SCOPES: frozenset[str] = frozenset(get_args(AdminScope))


class Outcome(StrEnum):
    """How an admitted request ended. Each one ends in exactly one of these."""

    SUCCEEDED = "succeeded"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_INVALID = "upstream_invalid"
    CLIENT_ABORTED = "client_aborted"
    ABANDONED = "abandoned"


class Refusal(StrEnum):
    """Why a request was not served, in the order of the checks. Statuses are in `gateway/http/problem_types.py`."""

    BAD_REQUEST = "bad_request"
    ROUTE_NOT_FOUND = "route_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    MISSING_KEY = "missing_key"
    INVALID_KEY = "invalid_key"
    KEY_REVOKED = "key_revoked"
    KEY_EXPIRED = "key_expired"
    KEY_DISABLED = "key_disabled"
    IP_NOT_ALLOWED = "ip_not_allowed"
    ACCOUNT_SUSPENDED = "account_suspended"
    SUBSCRIPTION_INACTIVE = "subscription_inactive"
    PERMISSION_DENIED = "permission_denied"
    FEATURE_NOT_IN_PLAN = "feature_not_in_plan"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    INVALID_BODY = "invalid_body"
    BATCH_TOO_LARGE = "batch_too_large"
    MODEL_NOT_OFFERED = "model_not_offered"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    IDEMPOTENCY_IN_PROGRESS = "idempotency_in_progress"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    IDEMPOTENCY_NOT_REPLAYABLE = "idempotency_not_replayable"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_IN_FLIGHT = "too_many_in_flight"
    INSUFFICIENT_CREDITS = "insufficient_credits"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_INVALID = "upstream_invalid"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_OVERLOADED = "upstream_overloaded"
    METERING_UNAVAILABLE = "metering_unavailable"
    ACCOUNTS_UNAVAILABLE = "accounts_unavailable"


class Refused(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """A check said no.

    Carries the code, a sentence for the client, and the extra members of the problem document (RFC 9457) by name.
    """

    def __init__(self, code: Refusal, detail: str, **extras: object) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.extras = extras


class KeyStatus(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"
    REVOKED = "revoked"


class KeyScheme(StrEnum):
    """How a key that is stored was digested. New ones are HMACs under a pepper; others come from other systems."""

    HMAC_SHA256 = "hmac-sha256"
    SHA256 = "sha256"


class AccountStatus(StrEnum):
    ACTIVE = "active"
    SUSPENDED = "suspended"


class SubscriptionStatus(StrEnum):
    INCOMPLETE = "incomplete"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    PAUSED = "paused"
    CANCELED = "canceled"
    EXPIRED = "expired"


class PastDue(StrEnum):
    """What a plan gives after a failed renewal, until it is paid or the grace is over.

    SERVE: all it gives, the credits of the unpaid period advanced. PURCHASED_ONLY: access, but no credits of that
    period, so purchased ones pay. STOP: nothing.
    """

    SERVE = "serve"
    PURCHASED_ONLY = "purchased_only"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as the gateway knows it; the secret itself is never kept.

    `permissions` None means every permission of the plan; `allowed_ips` are CIDRs, empty means any address.
    `credit_cap` None is no cap. What counts against it is spent from a budget that the key shares with all that came of
    one key by rotation: `budget_id` is the first of them, `budget_keys` how many there are.
    """

    id: UUID
    status: KeyStatus
    prefix: str
    last4: str
    permissions: frozenset[str] | None = None
    allowed_ips: tuple[str, ...] = ()
    expires_at: datetime | None = None
    credit_cap: int | None = None
    budget_id: UUID | None = None
    budget_keys: int = 1

    @property
    def masked(self) -> str:
        """What may be shown: enough to find the key, too little to use it."""
        return f"{self.prefix}…{self.last4}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a subscription gives. `id` is a word such as `pro`. None means no limit.

    `overage_credits` is how far below zero the balance may go; it is billed.
    """

    id: str
    name: str
    version: int
    features: Mapping[str, FeatureValue]
    permissions: frozenset[str] = frozenset()
    requests_per_minute: int | None = None
    requests_per_hour: int | None = None
    max_api_calls_per_day: int | None = None
    max_concurrent_requests: int | None = None
    max_products_per_batch: int | None = None
    max_file_size_bytes: int | None = None
    max_credits_per_call: int | None = None
    is_paid: bool = False
    past_due: PastDue = PastDue.PURCHASED_ONLY
    overage_credits: int = 0


@dataclass(frozen=True, slots=True)
class Subscription:
    """The account's current subscription, or its last one. `access/authorization.py` decides what its status allows.

    `past_due_since`: when a payment failed that nobody has made since. `is_fallback`: it has ended, and `plan` is the
    one that holds from then on.
    """

    id: UUID
    status: SubscriptionStatus
    plan: Plan
    current_period_end: datetime | None = None
    cancel_at_period_end: bool = False
    past_due_since: datetime | None = None
    current_period_start: datetime | None = None
    is_fallback: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """`waiting_credits` cannot be used, since no subscription is current."""

    id: UUID
    status: AccountStatus
    subscription: Subscription | None
    waiting_credits: int = 0


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling: a key, its account, and the versions this knowledge is of.

    The versions travel with every admission; the meter answers `stale` when either has moved.
    """

    key: Key
    account: Account
    account_version: int
    catalogue_version: int


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of the route table.

    `path` ends in `/**` for a prefix, and may hold `*` for part of a segment. Upstreams do not see `strip_prefix`.
    A route that `serves_models` has no upstream: the gateway itself answers what of its price list a caller may use.
    """

    name: str
    path: str
    methods: frozenset[str]
    upstream: str
    usage_type: str
    price: Price | PriceList
    feature: str | None = None
    permission: str | None = None
    max_body_bytes: int | None = None
    charge_on: frozenset[str] = field(default_factory=lambda: frozenset({"2xx"}))
    websocket: bool = False
    charge_broken: bool = False
    strip_prefix: str = ""
    passes_encoded_slashes: bool = False
    serves_models: bool = False


class Window(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
