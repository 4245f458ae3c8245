"""gateway.yaml and the environment become one frozen Config; nothing else reads files or the environment."""

from gateway.config.errors import ConfigError, ConfigProblem, Origin
from gateway.config.loading import load
from gateway.config.model import (
    Config,
    Database,
    Keys,
    Principals,
    Redis,
    Upstream,
)
from gateway.config.operation.logs import Log
from gateway.config.operation.records import Usage
from gateway.config.plans import Billing, Pack, PlanSpec, TierSpec, default_plans
from gateway.config.quantities import Address, IPNetwork
from gateway.config.secrets import Secrets
from gateway.config.server import Server
from gateway.config.summary import describe, plans_to_apply, settings_for_restart, warnings, with_reloaded

__all__ = [
    "Address",
    "Billing",
    "Config",
    "ConfigError",
    "ConfigProblem",
    "Database",
    "IPNetwork",
    "Keys",
    "Log",
    "Origin",
    "Pack",
    "PlanSpec",
    "Principals",
    "Redis",
    "Secrets",
    "Server",
    "TierSpec",
    "Upstream",
    "Usage",
    "default_plans",
    "describe",
    "load",
    "plans_to_apply",
    "settings_for_restart",
    "warnings",
    "with_reloaded",
]
