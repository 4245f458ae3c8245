"""Who comes to the console: a stranger, or an operator who signed in by an admin token, whose scopes hold."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from starlette.responses import Response

from gateway.api.admin import AdminApi
from gateway.api.admin.auth import Actor
from gateway.api.admin.scopes import PREFIX, scope_of
from gateway.api.errors import NotAuthenticated
from gateway.clock import now
from gateway.web.console.in_process import ApiCaller, ApiRefused
from gateway.web.forms import Form, sentence
from gateway.web.site import Site, Visit

T = TypeVar("T")

SESSION_LIFETIME = timedelta(hours=12)
# What cannot be undone takes the token again, so long after it was given.
RECENT = timedelta(minutes=15)
_COOKIE, _AUDIENCE = "console_session", "console:session"
_ROOT = "root"
FORBIDDEN = 403


class OperatorNeeded(Exception):  # noqa: N818 - an answer (303), not a fault
    """The page is for operators who are signed in."""


@dataclass(frozen=True, slots=True)
class Console:
    """What the pages depend on. `portal_url` is where customers sign in; empty where there is no portal."""

    site: Site
    admin: AdminApi


@dataclass(frozen=True, slots=True)
class Outsider:
    visit: Visit
    console: Console


@dataclass(frozen=True, slots=True)
class Operator:
    """A request to a page of an operator; `proven_at` is when the token was given last."""

    visit: Visit
    console: Console
    actor: Actor
    api: ApiCaller
    proven_at: datetime

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
            self.form.message = None if errors else str(refused)
        return None

    async def prove(self) -> bool:
        """Whether the token was given lately, or is in the form, which else says what is wrong."""
        if now() - self.proven_at < RECENT:
            return True
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
        begin(self.visit, self.console, actor)
        return True


async def sign_in(console: Console, token: str, *, address: str) -> Actor:
    """Raises NotAuthenticated, Throttled, DatabaseUnavailable."""
    return await console.admin.authenticator.sign_in(token.strip().encode("utf-8", "replace"), address=address)


async def enter_stranger(console: Console, visit: Visit) -> Outsider:
    visit.shared |= {"actor": None, "can": _nothing, "wanted": ""}
    return Outsider(visit, console)


async def enter_operator(console: Console, visit: Visit) -> Operator:
    """Raises OperatorNeeded, also where the token has been revoked since."""
    visit.shared |= {"actor": None, "can": _nothing, "wanted": ""}
    claims = console.site.signer.read(_AUDIENCE, visit.cookies.get(_COOKIE))
    if claims is None:
        raise OperatorNeeded
    token_id = None if claims["tid"] == _ROOT else UUID(claims["tid"])
    actor = await console.admin.authenticator.find_signed_in(token_id)
    if actor is None:
        raise OperatorNeeded
    visit.identity = claims["sid"]
    visit.shared |= {"actor": actor, "can": _can(actor)}
    caller = ApiCaller(console.admin.scoped, actor, visit.address)
    return Operator(visit, console, actor, caller, datetime.fromtimestamp(claims["proven"], UTC))


def begin(visit: Visit, console: Console, actor: Actor, *, session_id: str = "") -> None:
    """Keeps in the browser by which token the operator signed in, never the token itself."""
    token_id = _ROOT if actor.token_id is None else str(actor.token_id)
    claims = {"tid": token_id, "sid": session_id or visit.identity, "proven": int(now().timestamp())}
    signed = console.site.signer.sign(_AUDIENCE, claims, lifetime=SESSION_LIFETIME)
    visit.cookies.set(_COOKIE, signed, max_age=SESSION_LIFETIME)


def forget(visit: Visit) -> None:
    visit.cookies.delete(_COOKIE)


def _can(actor: Actor) -> Callable[[str, str], bool]:
    """Whether the operator's scopes let it do this: pages leave out what the API would refuse."""

    def can(method: str, path: str) -> bool:
        return scope_of(method, PREFIX.rstrip("/") + path) in actor.scopes

    return can


def _nothing(_method: str, _path: str) -> bool:
    return False
