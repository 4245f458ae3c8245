"""Who comes to the console: a stranger, or an operator, whose scopes hold.

An operator signs in by an admin token, by an OpenID provider, or is named by a trusted proxy at each request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from uuid import UUID

from starlette.responses import Response

from gateway.api.admin import AdminApi
from gateway.api.admin.auth import Actor
from gateway.api.admin.scopes import PREFIX, scope_of
from gateway.api.errors import NotAuthenticated
from gateway.clock import now
from gateway.config.operation.console import Console as ConsoleSettings
from gateway.web.console.in_process import ApiCaller, ApiRefused
from gateway.web.console.single_sign_on import Identity, proxy
from gateway.web.forms import Form
from gateway.web.site import Site, Visit
from gateway.web.wording import sentence

if TYPE_CHECKING:  # Authlib is an extra
    from gateway.web.console.single_sign_on.provider import OpenIdProvider

T = TypeVar("T")

SESSION_LIFETIME = timedelta(hours=12)
# What cannot be undone takes the token again, so long after it was given.
RECENT = timedelta(minutes=15)
_COOKIE, _AUDIENCE = "console_session", "console:session"
_ROOT = "root"
FORBIDDEN = 403
_NEVER = datetime.fromtimestamp(0, UTC)
SignedInBy = Literal["token", "proxy", "oidc"]


# Of what makes a form one change; the API speaks of a header that no form shows.
_OF_FORMS = {
    "idempotency_key_reused": "This form was sent before with other values. Nothing was done with these: send it again "
    "if it is to be.",
    "idempotency_in_progress": "This form was sent already, and is being worked on. Reload the page to see the result.",
}


class OperatorNeeded(Exception):  # noqa: N818 - an answer (303), not a fault
    """The page is for operators who are signed in."""


@dataclass(frozen=True, slots=True)
class Console:
    """What the pages depend on. `provider` None: nobody signs in by one."""

    site: Site
    admin: AdminApi
    settings: ConsoleSettings
    provider: OpenIdProvider | None


@dataclass(frozen=True, slots=True)
class Outsider:
    visit: Visit
    console: Console


@dataclass(frozen=True, slots=True)
class Operator:
    """A request to a page of an operator; `proven_at` is when the operator last proved who it is."""

    visit: Visit
    console: Console
    actor: Actor
    api: ApiCaller
    proven_at: datetime
    signed_in_by: SignedInBy

    @property
    def form(self) -> Form:
        return self.visit.form

    @property
    def once(self) -> str | None:
        """What makes a form that is sent twice one change."""
        return self.form.text("once")

    def param(self, name: str) -> str | None:
        """A parameter of the address; None where it is empty."""
        return self.visit.request.query_params.get(name) or None

    def path(self, name: str) -> str:
        found: str = self.visit.request.path_params[name]
        return found

    def render(self, template: str, *, status: int = 200, **context: Any) -> Response:
        return self.visit.render(f"console/{template}", status=status, **context)

    async def submit(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """What the API gives; None where it refuses, and the form says why. Raises ApiRefused for a missing scope."""
        try:
            return await call()
        except ApiRefused as refused:
            if refused.status == FORBIDDEN:
                raise
            self.form.status = refused.status
            errors = refused.problem.get("errors") or ()
            self.form.errors = {each["field"]: sentence(each["message"]) for each in errors}
            said = _OF_FORMS.get(str(refused.problem.get("code")), str(refused))
            self.form.message = None if errors else said
        return None

    async def prove(self) -> bool:
        """Whether the operator lately proved who it is, or does by the form's token; else the form says what is wrong.

        A proxy asks by its own rules, and is believed.
        """
        if self.signed_in_by == "proxy" or now() - self.proven_at < RECENT:
            return True
        if self.signed_in_by == "oidc":
            self.visit.shared["form_page"] = self.visit.form_page
            self.form.refuse("sign_in", "again, and then repeat this: you signed in some time ago, and it is for good")
            return False
        if not self.form.raw("token"):
            self.form.refuse("token", "required: you signed in some time ago, and this cannot be undone")
            return False
        try:
            actor = await sign_in(self.console, self.form.raw("token"), address=self.visit.address)
        except NotAuthenticated:
            self.form.refuse("token", "is not valid")
            return False
        if actor.token_id != self.actor.token_id:
            self.form.refuse("token", "is another one than you signed in with")
            return False
        begin(self.visit, actor)
        return True


async def sign_in(console: Console, token: str, *, address: str) -> Actor:
    """Raises NotAuthenticated, Throttled, DatabaseUnavailable."""
    return await console.admin.authenticator.sign_in(token.strip().encode("utf-8", "replace"), address=address)


async def enter_stranger(console: Console, visit: Visit) -> Outsider:
    _share(console, visit)
    return Outsider(visit, console)


async def enter_operator(console: Console, visit: Visit) -> Operator:
    """Raises OperatorNeeded, also where the token has been revoked or the session was signed out since."""
    _share(console, visit)
    named = proxy.identity_of(visit.request, console.settings.trusted_proxy)
    if named is not None:
        visit.identity = f"proxy {named.name}"
        return _operator(visit, console, named.actor(console.settings), signed_in_by="proxy", proven_at=_NEVER)
    claims = console.site.signer.read(_AUDIENCE, visit.cookies.get(_COOKIE))
    if claims is None or await console.admin.authenticator.has_ended(claims["sid"]):
        raise OperatorNeeded
    signed_in_by: SignedInBy = "oidc" if "name" in claims else "token"
    actor = await _of_token(console, claims) if signed_in_by == "token" else _of_provider(console, claims)
    if actor is None:
        raise OperatorNeeded
    visit.identity = claims["sid"]
    proven_at = datetime.fromtimestamp(claims["proven"], UTC)
    return _operator(visit, console, actor, signed_in_by=signed_in_by, proven_at=proven_at)


def _share(console: Console, visit: Visit) -> None:
    more = {"actor": None, "can": _nothing, "wanted": "", "form_page": None, "signed_in_by": None}
    visit.shared |= more | {"has_provider": console.provider is not None}


async def _of_token(console: Console, claims: Mapping[str, Any]) -> Actor | None:
    return await console.admin.authenticator.find_signed_in(None if claims["tid"] == _ROOT else UUID(claims["tid"]))


def _of_provider(console: Console, claims: Mapping[str, Any]) -> Actor | None:
    """With the scopes that its groups have now; None where they have none any more, or the provider is gone."""
    if console.provider is None:
        return None
    actor = Identity("oidc", claims["name"], frozenset(claims["groups"]), None).actor(console.settings)
    return actor if actor.scopes else None


def _operator(
    visit: Visit, console: Console, actor: Actor, *, signed_in_by: SignedInBy, proven_at: datetime
) -> Operator:
    visit.shared |= {"actor": actor, "can": _can(actor), "signed_in_by": signed_in_by}
    caller = ApiCaller(console.admin.scoped, actor, visit.address)
    return Operator(visit, console, actor, caller, proven_at, signed_in_by)


def begin(visit: Visit, actor: Actor, *, session_id: str = "") -> None:
    """Keeps in the browser by which token the operator signed in, never the token itself."""
    token_id = _ROOT if actor.token_id is None else str(actor.token_id)
    _keep(visit, {"tid": token_id, "sid": session_id or visit.identity}, proven_at=now(), lifetime=SESSION_LIFETIME)


def begin_as(visit: Visit, console: Console, identity: Identity, *, session_id: str) -> None:
    """Keeps in the browser who the provider says it is, with the groups that mean something here."""
    settings = console.settings
    groups = sorted(identity.groups & settings.scopes.keys())
    claims = {"name": identity.name, "groups": groups, "sid": session_id}
    lifetime = SESSION_LIFETIME if settings.oidc is None else timedelta(seconds=settings.oidc.session_seconds)
    _keep(visit, claims, proven_at=identity.proven_at or _NEVER, lifetime=lifetime)


def _keep(visit: Visit, claims: Mapping[str, Any], *, proven_at: datetime, lifetime: timedelta) -> None:
    more = {"proven": int(proven_at.timestamp())}
    signed = visit.site.signer.sign(_AUDIENCE, {**claims, **more}, lifetime=lifetime)
    visit.cookies.set(_COOKIE, signed, max_age=lifetime)


async def end_former(visit: Visit, console: Console) -> None:
    """Ends the session that this browser has, for whoever copied its cookie too. Raises DatabaseUnavailable."""
    claims = console.site.signer.read(_AUDIENCE, visit.cookies.get(_COOKIE))
    if claims is not None:
        # A copy may be of a cookie that lasts longer: each proof of who it is renews it.
        ends_at = max(datetime.fromtimestamp(claims["exp"], UTC), now() + SESSION_LIFETIME)
        await console.admin.authenticator.end_session(claims["sid"], until=ends_at)


def forget(visit: Visit) -> None:
    visit.cookies.delete(_COOKIE)


def _can(actor: Actor) -> Callable[[str, str], bool]:
    """Whether the operator's scopes let it do this: pages leave out what the API would refuse."""

    def can(method: str, path: str) -> bool:
        return scope_of(method, PREFIX.rstrip("/") + path) in actor.scopes

    return can


def _nothing(_method: str, _path: str) -> bool:
    return False
