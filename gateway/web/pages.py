"""Binds pages to paths: each is entered by a function that knows who comes, and answers every failure with a page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Route

from gateway.api import error_responses
from gateway.http.problem_types import PROBLEM_TYPES
from gateway.web.cookies import Cookies
from gateway.web.forms import AddressRefused, read_form
from gateway.web.site import Site, Visit

V = TypeVar("V")
Page = Callable[[V], Awaitable[Response]]
Enter = Callable[[Visit], Awaitable[V]]

# Forms are a few fields: an account's own profile is the longest.
MAX_FORM_BYTES = 32 * 1024
TOKEN_FIELD = "form_token"  # noqa: S105 - the name of a field


_OLD = "This form is too old, or was sent from another page. Go back, reload the page and send it again."
_WITHOUT_COOKIE = (
    "Your browser did not keep the cookie of this page. Open it by https, or on this machine by localhost, and let it "
    "keep cookies."
)


class FormRefused(Exception):  # noqa: N818 - an answer (403), not a fault
    """The form does not come from a page that this browser was shown; the message says what to do."""


class PageRoutes(Generic[V]):
    """The pages of a module, by method and path below the root of the site."""

    def __init__(self) -> None:
        self._pages: list[tuple[str, str, Page[V]]] = []
        self._good_once: set[str] = set()

    def get(self, path: str, *, is_good_once: bool = False) -> Callable[[Page[V]], Page[V]]:
        """`is_good_once`: HEAD, which previews of links and scanners of mails send, does nothing."""
        if is_good_once:
            self._good_once.add(path)
        return self._add("GET", path)

    def post(self, path: str) -> Callable[[Page[V]], Page[V]]:
        return self._add("POST", path)

    def routes(self, site: Site, enter: Enter[V]) -> list[Route]:
        return [
            Route(
                site.root + path,
                _endpoint(site, enter, page, is_good_once=path in self._good_once),
                methods=[method],
            )
            for method, path, page in self._pages
        ]

    def _add(self, method: str, path: str) -> Callable[[Page[V]], Page[V]]:
        def add(page: Page[V]) -> Page[V]:
            self._pages.append((method, path, page))
            return page

        return add


def build_site(site: Site, routes: Iterable[BaseRoute], handlers: dict[type[Exception], Any]) -> Starlette:
    """The application. `handlers` answer further exceptions, each a function of the visit and the exception."""
    found: dict[Any, Any] = {kind: _handler(site, answer) for kind, answer in handlers.items()}
    for kind in (*error_responses.ANSWERED, HTTPException, FormRefused, AddressRefused, Exception):
        found.setdefault(kind, _handler(site, _show_failure))
    home = Route(site.root + "/", partial(_to_root, site), methods=["GET"])
    return Starlette(routes=[site.assets.route(), home, *routes], exception_handlers=found)


async def _to_root(site: Site, _: Request) -> Response:
    return RedirectResponse(site.root, 308)


def uuid_in_path(visit: Visit, name: str) -> UUID:
    """Raises HTTPException(404) for what is none."""
    try:
        return UUID(visit.request.path_params[name])
    except ValueError:
        raise HTTPException(404) from None


def is_same_site(request: Request) -> bool:
    """Whether a page of this origin sent the request, as far as the browser tells (Fetch Metadata, else Origin)."""
    fetch_site = request.headers.get("sec-fetch-site")
    if fetch_site is not None:
        return fetch_site in ("same-origin", "none")
    origin = request.headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
    except ValueError:  # `http://[`
        return False


def _endpoint(
    site: Site, enter: Enter[V], page: Page[V], *, is_good_once: bool
) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        visit = request.state.visit = Visit(site, request, Cookies(request))
        if is_good_once and request.method == "HEAD":
            return visit.redirect("")
        if request.method in ("GET", "HEAD"):
            return await page(await enter(visit))
        if not is_same_site(request):
            raise FormRefused("This form was sent by another site, and was not carried out.")
        visit.form = await read_form(request)
        entered = await enter(visit)
        if not visit.is_form_token(visit.form.raw(TOKEN_FIELD)):
            raise FormRefused(_OLD if visit.has_cookie else _WITHOUT_COOKIE)
        return await page(entered)

    return serve


def _handler(
    site: Site, answer: Callable[[Visit, Any], Awaitable[Response]]
) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, error: Exception) -> Response:
        found = getattr(request.state, "visit", None)
        return await answer(found or Visit(site, request, Cookies(request)), error)

    return handle


async def _show_failure(visit: Visit, error: Exception) -> Response:
    """A page in place of the problem document that the API would answer with."""
    if isinstance(error, FormRefused):
        return visit.render("failure.html", status=403, title="Not done", detail=str(error), code="form_refused")
    refusal = error.refusal if isinstance(error, AddressRefused) else error_responses.refusal_of(error)
    status = error.status_code if isinstance(error, HTTPException) else PROBLEM_TYPES[refusal.code].status
    title = PROBLEM_TYPES[refusal.code].title
    response = visit.render("failure.html", status=status, title=title, detail=refusal.detail, code=refusal.code)
    if status == 405:
        response.headers["allow"] = ", ".join(sorted(_allowed(visit.request)))
    return response


def _allowed(request: Request) -> set[str]:
    """The methods of a path, each of which may be a route of its own."""
    found = (route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
    return {method for route in found for method in route.methods or ()}
