"""Which scope an operation takes: one table, by what stands behind /admin/v1/. Guard and OpenAPI document read it."""

from __future__ import annotations

from policies.model import ADMIN_SCOPES, AdminScope

PREFIX = "/admin/v1/"
READ = "read"
ADMIN = "admin:write"
Scope = AdminScope
SCOPES = ADMIN_SCOPES

_READS = frozenset({"GET", "HEAD"})
# POSTs that change nothing.
_DRY_RUNS = frozenset({("keys", "verify"), ("prices", "quote")})
_WRITES = {
    "users": "users:write",
    "keys": "keys:write",
    "credits": "credits:write",
    "plans": "plans:write",
    "permissions": "plans:write",
    "products": "plans:write",
    "experiments": "plans:write",
    "subscriptions": "subscriptions:write",
    "coupons": "billing:write",
    "payments": "billing:write",
    "invoices": "billing:write",
    "refunds": "billing:write",
    "webhook-events": "billing:write",
    "usage": READ,
    "portal-sessions": ADMIN,  # as who a user is, everything of theirs can be done
}


def scope_of(method: str, path: str) -> str:
    """The scope for a method and a path or its template; `admin:write` for a path that the table does not have."""
    nouns = path.removeprefix(PREFIX).split("/")
    if method in _READS or tuple(nouns[:2]) in _DRY_RUNS:
        return READ
    # users/{id}/credits is about credits, and keys/{id}/revoke about keys: the last noun that the table knows.
    known = [noun for noun in nouns[::2] if noun in _WRITES] if len(nouns) > 1 else nouns
    return _WRITES.get(known[-1], ADMIN) if known else ADMIN
