"""Who comes to the portal: a stranger, or a customer with a session. Sessions are those of the account API."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx

from gateway.api.account.authentication import Session, find_user, session_of
from gateway.api.account.dependencies import AccountDependencies
from gateway.api.account.login.password_login import check_password
from gateway.api.account.login.sessions import end_session
from gateway.api.checkout import CheckoutService
from gateway.api.errors import NotAuthenticated
from gateway.clock import now
from gateway.config.operation.portal import Portal as PortalSettings
from gateway.web.formats import zone
from gateway.web.forms import Form
from gateway.web.site import Site, Visit

_COOKIE, _AUDIENCE = "gateway_portal_session", "portal:session"


class SignInNeeded(Exception):  # noqa: N818 - an answer (303), not a fault
    """The page is for customers who are signed in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portal:
    """What the pages depend on. `client` reaches the public listener, for test calls.

    What cannot be undone takes a password again, `recent_sign_in` after the last one. A test call waits
    `receipt_seconds` for its receipt.
    """

    site: Site
    account: AccountDependencies
    checkout_service: CheckoutService
    settings: PortalSettings
    client: httpx.AsyncClient
    recent_sign_in: timedelta
    receipt_seconds: float = 4.0


@dataclass(frozen=True, slots=True)
class Stranger:
    """A request to a page that everybody may see."""

    visit: Visit
    portal: Portal


@dataclass(frozen=True, slots=True)
class Leaver:
    """A request to sign out, whatever has become of the session and of its account."""

    visit: Visit
    portal: Portal
    session_id: UUID


@dataclass(frozen=True, slots=True)
class Customer:
    """A request to a page of a customer; `proven_at` is when the session last proved who it is.

    `return_url` leads back to the product that handed the session over.
    """

    visit: Visit
    portal: Portal
    me: Session
    proven_at: datetime
    return_url: str | None

    @property
    def is_recent(self) -> bool:
        return now() - self.proven_at < self.portal.recent_sign_in

    async def prove(self, form: Form) -> bool:
        """Whether it proved lately who it is, or does by the password in the form, which else says what is wrong."""
        if self.is_recent:
            return True
        account, email = self.portal.account, self.me.user.email
        if not form.raw("password"):
            way = "; without one, come here again from the page that led you here" if self.return_url else ""
            form.refuse("password", f"required: you signed in some time ago, and this cannot be undone{way}")
            return False
        try:
            await check_password(account, email, password=form.raw("password"), address=self.visit.address)
        except NotAuthenticated:
            form.refuse("password", "is not your password")
            return False
        begin(self.visit, self.portal, self.me.session_id, return_url=self.return_url)
        return True


async def enter_stranger(portal: Portal, visit: Visit) -> Stranger:
    visit.shared |= {"user": None, "settings": portal.settings}
    return Stranger(visit, portal)


async def enter_leaver(portal: Portal, visit: Visit) -> Leaver:
    """Raises SignInNeeded."""
    claims = portal.site.signer.read(_AUDIENCE, visit.cookies.get(_COOKIE))
    visit.shared |= {"user": None, "settings": portal.settings}
    if claims is None:
        raise SignInNeeded
    visit.identity = claims["sid"]
    return Leaver(visit, portal, UUID(claims["sid"]))


async def enter_customer(portal: Portal, visit: Visit) -> Customer:
    """Raises SignInNeeded; Suspended."""
    claims = portal.site.signer.read(_AUDIENCE, visit.cookies.get(_COOKIE))
    visit.shared |= {"user": None, "settings": portal.settings}
    if claims is None:
        raise SignInNeeded
    session_id = UUID(claims["sid"])
    try:
        user = await find_user(portal.account.database, session_id)
        visit.identity = claims["sid"]  # for a form of the page that tells of a suspension, too
        me = session_of(user, session_id, portal.account.unit_of_work)
    except NotAuthenticated:
        raise SignInNeeded from None
    return_url = claims.get("return_url")
    more = {"user": me.user, "zone": zone(me.user.time_zone), "return_url": return_url}
    customer = Customer(visit, portal, me, datetime.fromtimestamp(claims["proven"], UTC), return_url)
    visit.shared |= more | {"is_recent": customer.is_recent}
    return customer


def begin(
    visit: Visit,
    portal: Portal,
    session_id: UUID,
    *,
    lifetime: timedelta | None = None,
    return_url: str | None = None,
) -> None:
    """Keeps a session of the account API in the browser: signed, and looked up at each request."""
    lifetime = lifetime or portal.account.lifetimes.refresh
    claims = {"sid": str(session_id), "proven": int(now().timestamp()), "return_url": return_url}
    signed = portal.site.signer.sign(_AUDIENCE, claims, lifetime=lifetime)
    visit.cookies.set(_COOKIE, signed, max_age=lifetime)


async def end_former(visit: Visit, portal: Portal) -> None:
    """Ends the session that this browser has, before another takes the place of its cookie."""
    claims = portal.site.signer.read(_AUDIENCE, visit.cookies.get(_COOKIE))
    if claims is not None:
        await end_session(portal.account, UUID(claims["sid"]))


def forget(visit: Visit) -> None:
    visit.cookies.delete(_COOKIE)
