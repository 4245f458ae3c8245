"""gateway.yaml and the environment become one frozen Config; nothing else reads files or the environment."""

from gateway.config.errors import ConfigError, ConfigProblem, Origin
from gateway.config.loading import load
from gateway.config.model import (
    Billing,
    Config,
    Database,
    Keys,
    LemonSqueezy,
    Pack,
    Principals,
    Redis,
    Server,
    Stripe,
    Upstream,
    Usage,
)
from gateway.config.plans import PlanSpec, TierSpec, default_plans
from gateway.config.quantities import Address, IPNetwork
from gateway.config.secrets import Secrets
from gateway.config.summary import describe, warnings

__all__ = [
    "Address",
    "Billing",
    "Config",
    "ConfigError",
    "ConfigProblem",
    "Database",
    "IPNetwork",
    "Keys",
    "LemonSqueezy",
    "Origin",
    "Pack",
    "PlanSpec",
    "Principals",
    "Redis",
    "Secrets",
    "Server",
    "Stripe",
    "TierSpec",
    "Upstream",
    "Usage",
    "default_plans",
    "describe",
    "load",
    "warnings",
]
