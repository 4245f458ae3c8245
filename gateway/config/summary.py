"""The summary of a configuration for `gateway check`, without secrets, and warnings of likely mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints
from urllib.parse import urlsplit

from gateway.config.model import Config, Upstream
from gateway.config.plans import Pack, PlanSpec
from gateway.config.quantities import Address
from gateway.config.secrets import Secrets
from gateway.config.validation import key_of
from policies.billing.providers import PROVIDERS, provider_ids
from policies.model import Route
from policies.pricing.price import Price
from policies.pricing.price_list import PriceList
from policies.wording import counted

# What SIGHUP applies.
RELOADED = frozenset({"path", "text", "routes", "upstreams", "plans", "server.cors", "log"})


def describe(config: Config) -> str:
    """A short account of listeners, stores, upstreams, routes and plans; then the warnings."""
    server = config.server
    lines = [
        f"public listener  {server.public}, {counted(server.workers, 'worker')}",
        f"admin listener   {server.admin}",
        f"health listener  {server.health}",
        f"database         {_without_credentials(config.database.url)}",
        f"redis            {_without_credentials(config.redis.url)}, {counted(config.redis.partitions, 'partition')}",
        f"connections      {_connections(config)}",
        f"data directory   {config.data_dir}",
        f"upstreams        {counted(len(config.upstreams), 'upstream')}",
        *(_upstream_line(upstream) for upstream in config.upstreams),
        f"routes           {counted(len(config.routes), 'route')}",
        *(_route_line(route) for route in config.routes),
        f"plans            {', '.join(plan.name for plan in config.plans) or 'none'}",
        f"payments         {', '.join(_providers(config)) or 'none configured'}",
        f"mail             {_mail(config)}",
        *(f"warning: {warning}" for warning in warnings(config)),
    ]
    return "\n".join(lines)


def with_reloaded(running: Config, read: Config) -> Config:
    """What a running gateway goes by once SIGHUP has applied `read`."""
    whole = {name: getattr(read, name) for name in RELOADED if "." not in name}
    return replace(running, server=replace(running.server, cors=read.server.cors), **whole)


def settings_for_restart(running: Config, read: Config) -> list[str]:
    """The settings that differ from those of a running gateway and take effect at its next start."""
    return list(_changed(running, read, ""))


def _changed(before: Any, after: Any, prefix: str) -> Iterator[str]:
    hints = get_type_hints(type(before), include_extras=True)
    for each in fields(before):
        one, other = getattr(before, each.name), getattr(after, each.name)
        key = prefix + key_of(each.name, hints[each.name])
        if one == other or key in RELOADED:
            continue
        if is_dataclass(one) and type(one) is type(other) and not isinstance(one, Address | Secrets):
            yield from _changed(one, other, f"{key}.")
        else:
            yield key


def plans_to_apply(running: Config, read: Config) -> list[str]:
    """The plans that are written otherwise than before: a reload creates plans, and changes none."""
    before = {plan.id: plan for plan in running.plans}
    return [plan.id for plan in read.plans if before.get(plan.id, plan) != plan]


def warnings(config: Config) -> tuple[str, ...]:
    """Settings that are valid and probably mistaken."""
    found = []
    if not config.routes:
        found.append("there are no routes; every request is answered with 404")
    used = {route.upstream for route in config.routes}
    found += [f"no route uses the upstream {up.name}" for up in config.upstreams if up.name not in used]
    offered = {feature for plan in config.plans for feature, value in plan.features.items() if value}
    found += [
        f"route {route.name} needs the feature {route.feature}, which no plan here has"
        for route in config.routes
        if route.feature and route.feature not in offered
    ]
    if config.notices.webhook_url and not config.secrets.webhook_secrets:
        found.append(
            "GATEWAY_WEBHOOK_SECRET is not set; notices.webhook_url gets nothing, since it could not be signed"
        )
    return (*found, *_payment_warnings(config))


def _payment_warnings(config: Config) -> list[str]:
    """A provider is used where its key is set; what is sold through one that is not cannot be bought."""
    sold: list[PlanSpec | Pack] = [*config.plans, *config.billing.packs]
    found = []
    for name, names in PROVIDERS.items():
        secrets = config.secrets.providers[name]
        if secrets.api_key is None and any(names.price_field in provider_ids(item) for item in sold):
            found.append(f"prices name {names.title}, but {names.api_key_variable} is not set")
        if secrets.api_key is not None and not secrets.webhook_secrets:
            found.append(f"{names.webhook_secret_variable} is not set; payments are heard of by polling alone")
    unbilled = (plan.id for plan in config.plans if plan.stripe_price_id and _is_unbilled(plan))
    return [
        *found,
        *(f"plan {each} cannot be bought at Stripe: its overage has no stripe_price_id" for each in unbilled),
    ]


def _is_unbilled(plan: PlanSpec) -> bool:
    overage = plan.overage
    return overage is not None and overage.price is not None and overage.stripe_price_id is None


def _mail(config: Config) -> str:
    if config.mail.smtp is not None:
        return _without_credentials(config.mail.smtp)
    waits = "; free credits and trials wait for addresses that nobody verifies there"
    return f"to the log{waits if config.auth.requires_verified else ''}"


def _connections(config: Config) -> str:
    """The most that the processes of each role open.

    A public worker has two pools, for calls and the account API; public workers together have the portal's. Each of
    these has one connection more, for what strangers send.
    """
    size, public = config.database.pool_size, 2 * config.server.workers + config.portal.enabled
    pools = {"serve": public + 2, "proxy": public, "admin": 1, "worker": 1}
    more = {"serve": public, "proxy": public}
    counts = ", ".join(f"{role} {count * size + more.get(role, 0)}" for role, count in pools.items())
    each = ", ".join(f"{role} {count}" for role, count in pools.items())
    return f"PostgreSQL: {counts}, and 2 at a start; Redis, to each server: {each}"


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return url if url == "embedded" else f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _upstream_line(upstream: Upstream) -> str:
    return f"  {upstream.name}: {', '.join(upstream.targets)}"


def _route_line(route: Route) -> str:
    methods = ",".join(sorted(route.methods))
    served_by = "the models of" if route.serves_models else f"{route.upstream},"
    return f"  {route.name}: {methods} {route.path} -> {served_by} {_price(route.price)}"


def _price(price: Price | PriceList) -> str:
    if isinstance(price, PriceList):
        return f"prices {price.name}: {', '.join(sorted(price.models))}"
    unit = price.unit if price.unit_size == 1 else price.unit.phrase(price.unit_size)
    return f"{counted(price.credits, 'credit')} per {unit}" if price.credits else "free"


def _providers(config: Config) -> list[str]:
    return [
        names.title.lower() for name, names in PROVIDERS.items() if config.secrets.providers[name].api_key is not None
    ]
