"""A principal with everything that can be computed once for it, and for each route, rather than for each request."""

from __future__ import annotations

from dataclasses import dataclass, field
from json import dumps
from typing import NamedTuple
from uuid import UUID

from gateway.clock import monotonic_seconds, now
from gateway.http.fields import HeaderBlock, header_block
from gateway.meter.keys import AccountKeys
from policies.access.admission import lasting_subscription
from policies.access.key_budgets import Cap, cap_of
from policies.access.limits import Limits, limits_of, policy_field, remaining_template
from policies.model import FeatureValue, Plan, Principal, Route, Subscription
from policies.usage import records


@dataclass(frozen=True, slots=True)
class Caller:
    """The principal behind an API key.

    `digest` is that of the key. `metering_template` and `identity_block` are header fields towards the client and the
    upstream; `record_columns` are the columns that all its records share, `masked_key_json` is a JSON string.
    `lasting_subscription` pays for any call, whenever and wherever it is made; None where that is to be asked.
    `passed_routes` are those that the policies have let it call, by name.
    """

    principal: Principal
    digest: bytes
    keys: AccountKeys
    limits: Limits
    metering_template: bytes
    identity_block: HeaderBlock
    record_columns: str
    masked_key_json: str
    loaded_at: float
    account_id: UUID
    key_id: UUID
    lasting_subscription: Subscription | None
    cap: Cap | None = None
    passed_routes: dict[str, PassedRoute] = field(default_factory=dict, compare=False)


class PassedRoute(NamedTuple):
    """A route that a caller may call, with bodies of so many bytes at most; None for no limit."""

    route: Route
    max_body_bytes: int | None


class Authorization(NamedTuple):
    """A caller that the policies let call a route, the subscription that pays, and the most that a body may hold."""

    caller: Caller
    subscription: Subscription
    max_body_bytes: int | None

    @property
    def plan(self) -> Plan:
        return self.subscription.plan


def build_caller(principal: Principal, digest: bytes, keys: AccountKeys) -> Caller:
    """The caller as of this moment."""
    subscription = principal.account.subscription
    limits = Limits((None, None, None), None) if subscription is None else limits_of(subscription.plan)
    return Caller(
        principal=principal,
        digest=digest,
        keys=keys,
        limits=limits,
        metering_template=_metering_template(limits),
        identity_block=identity_block(principal, subscription),
        record_columns=_record_columns(principal, subscription),
        masked_key_json=dumps(principal.key.masked),  # imported keys may begin and end with any characters
        loaded_at=monotonic_seconds(),
        account_id=principal.account.id,
        key_id=principal.key.id,
        lasting_subscription=lasting_subscription(principal.key, principal.account, now=now()),
        cap=cap_of(principal.key, subscription),
    )


def identity_block(principal: Principal, subscription: Subscription | None) -> HeaderBlock:
    """The X-Gateway-* fields that tell the upstream who is calling."""
    plan = subscription.plan if subscription else None
    lines = (
        f"x-gateway-user: {principal.account.id}\r\n"
        f"x-gateway-key: {principal.key.id}\r\n"
        f"x-gateway-plan: {_field_text(plan.name) if plan else ''}\r\n"
        f"x-gateway-features: {_features(plan) if plan else ''}\r\n"
    )
    return header_block(lines.encode())


def _metering_template(limits: Limits) -> bytes:
    """The fields of limits and credits, with placeholders for the balance and for `limits.remaining`."""
    balance, policy = b"x-credits-remaining: %d\r\n", policy_field(limits)
    if not policy:
        return balance
    return balance + b"ratelimit-policy: %b\r\nratelimit: %b\r\n" % (policy, remaining_template(limits))


def _record_columns(principal: Principal, subscription: Subscription | None) -> str:
    """User, key, subscription and plan."""
    plan = None if subscription is None else records.text(str(subscription.plan.id))
    return records.caller_columns(
        user_id=principal.account.id,
        api_key_id=principal.key.id,
        subscription_id=None if subscription is None else subscription.id,
        plan_id=plan,
    )


def _features(plan: Plan) -> str:
    """Truthy flags by name, valued ones as name=value, comma-separated and sorted."""
    return ",".join(_field_text(_flag(name, value)) for name, value in sorted(plan.features.items()) if value)


def _flag(name: str, value: FeatureValue) -> str:
    return name if value is True else f"{name}={value}"


def _field_text(value: str) -> str:
    """Plan names are free text; a field value holds visible ASCII (RFC 9110 §5.5)."""
    return "".join(char if " " <= char <= "~" and char != "," else "?" for char in value)
