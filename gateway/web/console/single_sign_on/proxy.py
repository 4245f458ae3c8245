"""Who a trusted proxy says is signed in, by header fields that it sets itself."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

import structlog
from starlette.requests import Request

from gateway.config.operation.console import TrustedProxy
from gateway.web.console.single_sign_on import Identity, checked_name

SOURCE = "proxy"
_log = structlog.get_logger()


def identity_of(request: Request, settings: TrustedProxy | None) -> Identity | None:
    """None where another address sent the fields, or nobody is named by exactly one of them."""
    if settings is None or not _is_trusted(request, settings):
        return None
    named = request.headers.getlist(settings.user_header)
    name = checked_name(named[0]) if len(named) == 1 else None
    if name is None:
        if named:
            _log.warning("sign_in_failed", kind=SOURCE, reason="the field names nobody, or several", fields=len(named))
        return None
    lists = request.headers.getlist(settings.groups_header)
    groups = frozenset(group.strip() for each in lists for group in each.split(",") if group.strip())
    # The proxy alone knows when it last asked who it is, and asks again by its own rules.
    return Identity(SOURCE, name, groups, None)


def _is_trusted(request: Request, settings: TrustedProxy) -> bool:
    """By the peer of the connection: no field can change it."""
    try:
        peer = ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    if isinstance(peer, IPv6Address) and peer.ipv4_mapped is not None:
        peer = peer.ipv4_mapped
    return any(peer in network for network in settings.addresses)
