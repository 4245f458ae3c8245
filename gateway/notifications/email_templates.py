"""Renders a notification as an e-mail: to whom it speaks, and what its token opens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from gateway.notifications.email_parts import Action
from gateway.notifications.emails import Email as Email
from gateway.notifications.emails import EmailTemplates
from policies.access.tokens import Purpose, one_time
from policies.billing.money import CreditValue


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateContext:
    """What templates need beyond the payload: the secret that derives tokens, and the pages that accept them.

    A link contains `{token}`. Without a link the e-mail names the API request that accepts the token. `operator`,
    `portal`, `folder` and `credit_value` are those of EmailTemplates.
    """

    secret: str = field(repr=False)
    verify_link: str | None = None
    reset_link: str | None = None
    credit_value: CreditValue | None = None
    operator: str = "Gateway"
    portal: str | None = None
    folder: Path | None = None


_MAX_NAME = 60
_LINK = re.compile(r"[:/@\\]|www|\w\.\w\w")
_ONE_TIME = {
    "account.verify_email": (Purpose.VERIFY_EMAIL, "verify_link", "POST /auth/verify-email"),
    "account.reset_password": (Purpose.RESET_PASSWORD, "reset_link", "POST /auth/reset-password"),
}


def render(kind: str, payload: Mapping[str, Any], *, name: str | None, context: TemplateContext) -> Email:
    """The e-mail for a notification. `name` is None while the address is unverified."""
    action = _action(kind, payload, context) if kind in _ONE_TIME else None
    return _templates(context).render(kind, payload, greeting=_greeting(name), action=action)


@cache
def _templates(context: TemplateContext) -> EmailTemplates:
    return EmailTemplates(
        operator=context.operator, portal=context.portal, folder=context.folder, credit_value=context.credit_value
    )


def _greeting(name: str | None) -> str:
    """Without a name that could pass for a message of the operator's: several lines, a link, an address."""
    is_name = name and name.isprintable() and len(name) <= _MAX_NAME and not _LINK.search(name)
    return f"Hello {name}," if is_name else "Hello,"


def _action(kind: str, payload: Mapping[str, Any], context: TemplateContext) -> Action:
    purpose, link_name, request = _ONE_TIME[kind]
    token = one_time(context.secret, purpose, UUID(payload["token_id"]))
    link: str | None = getattr(context, link_name)
    url = None if link is None else link.replace("{token}", token)
    return Action(url, request, token, f"{payload['expires_at'][:16].replace('T', ' ')} UTC")
