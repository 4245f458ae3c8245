"""The section `console` of gateway.yaml: how operators sign in besides by an admin token."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from gateway.config import quantities
from gateway.config.quantities import Kind, Network, Text, Timeout, about
from policies.model import ADMIN_SCOPES

EVERYONE, ALL = "*", "all"
CALLBACK_PATH = "/console/oidc/callback"
_LISTED = ", ".join(f"`{scope}`" for scope in sorted(ADMIN_SCOPES))
_FIELD = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
# Fields that mean something to HTTP or to the gateway say nothing about who asks.
_TAKEN = frozenset(("authorization", "connection", "content-length", "cookie", "host", "origin", "transfer-encoding"))


def _field_name(value: object) -> str:
    if not isinstance(value, str) or not _FIELD.fullmatch(value) or value.lower() in _TAKEN:
        raise ValueError(f"must be the name of a header field such as X-Forwarded-User, got {value!r}")
    return value.lower()


def _some_networks(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """A list that allows everybody would let anybody be anybody."""
    if not networks:
        raise ValueError("must name the proxies: whoever may connect could else be any operator")
    if any(network.prefixlen == 0 for network in networks):
        raise ValueError("must name the proxies, not every address: whoever may connect could else be any operator")
    return networks


def _issuer(value: object) -> str:
    """By https, or on this machine, since keys and tokens come from there."""
    found = quantities.http_url(value)
    parts = urlsplit(found)
    if parts.query or parts.fragment or (parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost")):
        raise ValueError("must be an https URL without a query, as the provider's discovery document has it")
    return found


def _origin(value: object) -> str:
    found = quantities.http_url(value)
    if urlsplit(found).path:
        raise ValueError("must be an origin such as https://gateway-admin.example.com, without a path")
    return found


def _scope(value: object) -> str:
    if value not in ADMIN_SCOPES and value != ALL:
        raise ValueError(f"must be a scope, of {', '.join(sorted(ADMIN_SCOPES))}, or {ALL}; got {value!r}")
    return str(value)


FieldName = Annotated[str, BeforeValidator(_field_name), Kind("name of a header field")]
Scope = Annotated[str, BeforeValidator(_scope), Kind("scope")]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedProxy:
    addresses: Annotated[
        tuple[Network, ...],
        BeforeValidator(quantities.listed),
        AfterValidator(_some_networks),
        about("From where the admin listener believes the fields: the proxy, which must strip them from clients."),
    ]
    user_header: Annotated[FieldName, about("Field with who is signed in.")] = "x-forwarded-user"
    groups_header: Annotated[FieldName, about("Field with the groups, separated by commas.")] = "x-forwarded-groups"


@dataclass(frozen=True, slots=True, kw_only=True)
class Oidc:
    issuer: Annotated[
        str,
        BeforeValidator(_issuer),
        Kind("`https://` URL"),
        about("OpenID provider; its `/.well-known/openid-configuration` says the rest."),
    ]
    client_id: Annotated[
        Text, about("The console as the provider knows it; `GATEWAY_OIDC_CLIENT_SECRET` is its secret.")
    ]
    url: Annotated[
        str,
        BeforeValidator(_origin),
        Kind("`http(s)://` origin"),
        about(f"The console as browsers reach it. The provider leads back to `{CALLBACK_PATH}` there."),
    ]
    scopes: Annotated[
        tuple[Text, ...], BeforeValidator(quantities.listed), about("What is asked of the provider, besides `openid`.")
    ] = ("email", "profile")
    user_claim: Annotated[Text, about("Claim that names an operator, in the audit log too.")] = "email"
    groups_claim: Annotated[Text, about("Claim with a list of groups.")] = "groups"
    session_seconds: Annotated[Timeout, about("Time until an operator signs in again.", key="session")] = 8 * 3600.0

    def __post_init__(self) -> None:
        if find_spec("authlib") is None:
            raise ValueError("needs the extra `oidc`: pip install 'metering-gateway[oidc]'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """`scopes` of a group; those of `*` are of everybody whom the proxy or the provider lets in."""

    trusted_proxy: Annotated[
        TrustedProxy | None, about("Signs operators in by header fields of a proxy before the admin listener.")
    ] = None
    oidc: Annotated[Oidc | None, about("Signs operators in by an OpenID provider.")] = None
    scopes: Annotated[
        dict[Text, tuple[Scope, ...]],
        Kind("map of groups and lists of scopes, such as `{admins: [all], support: [read, credits:write]}`"),
        about(
            f"What groups may do, as with admin tokens: {_LISTED}, or `{ALL}`. The group `{EVERYONE}` is everybody who"
            " signs in so; who is in none sees nothing."
        ),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.trusted_proxy or self.oidc) and not self.scopes:
            raise ValueError("scopes must say what groups may do, such as {admins: [all]}")

    def scopes_of(self, groups: frozenset[str]) -> frozenset[str]:
        """Of all the groups together."""
        found = {scope for group in (*groups, EVERYONE) for scope in self.scopes.get(group, ())}
        return ADMIN_SCOPES if ALL in found else frozenset(found)
