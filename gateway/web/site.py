"""A site of pages: its templates, assets and cookies, under one path of a listener."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from secrets import token_urlsafe
from typing import Any, Literal
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.web.assets import Assets
from gateway.web.branding import Branding, Link
from gateway.web.charts import bar_chart, line_chart
from gateway.web.cookies import Cookies, CookieSigner
from gateway.web.formats import FILTERS
from gateway.web.forms import Form
from gateway.web.wording import label

_FLASH_LIFETIME = timedelta(minutes=1)
_NOT_SENT = "You were signed out meanwhile, so nothing was done. Sign in, and send the form again."
Tone = Literal["done", "problem"]

# Nothing inline, nothing from elsewhere. Forms go to the site itself: whoever pays follows a link.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    # A browser sends `Origin: null` with the forms of pages that send no referrer at all.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


class Site:
    """`root` is its path, such as /portal; `name` begins the names of its cookies; `menu` are its main pages."""

    def __init__(self, root: str, *, name: str, secret: str, branding: Branding, menu: tuple[Link, ...] = ()) -> None:
        self.root = root
        self.name = name
        self.branding = branding
        self.assets = Assets(root, branding)
        self.signer = CookieSigner(secret)
        self.menu = menu
        self.environment = environment()
        self.environment.globals |= {"site": self, "asset": self.assets.url, "brand": branding}

    def render(self, template: str, context: Mapping[str, Any], *, status: int = 200) -> Response:
        text = self.environment.get_template(template).render(context)
        return HTMLResponse(text, status, headers=_HEADERS)


def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("gateway.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {**FILTERS, "label": label}
    made.globals |= {"line_chart": line_chart, "bar_chart": bar_chart, "feature_names": feature_names}
    made.globals["new_id"] = lambda: uuid4().hex
    return made


def feature_names(plans: Iterable[Any]) -> list[str]:
    """The features that any of the plans names."""
    return sorted({name for plan in plans for name in plan.features})


@dataclass(slots=True)
class Visit:
    """One request to a page, and what its response must carry.

    `identity` is who is signed in, empty for a stranger: forms that were shown to somebody else are refused. Every
    template of the site gets what is `shared`.
    """

    site: Site
    request: Request
    cookies: Cookies
    identity: str = ""
    form: Form = field(default_factory=Form)
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return self.request.client.host if self.request.client else ""

    @property
    def has_cookie(self) -> bool:
        """Whether the browser kept what an earlier page gave it."""
        return bool(self.cookies.get(f"{self.site.name}_visit"))

    @property
    def is_partial(self) -> bool:
        """Whether the module of the pages asks, which takes one element out of the response."""
        return self.request.headers.get("x-partial") == "1"

    def form_token(self) -> str:
        """What each form of this browser and this session must send back."""
        name = f"{self.site.name}_visit"
        nonce = self.cookies.get(name)
        if not nonce:
            nonce = token_urlsafe(18)
            self.cookies.set(name, nonce)
        mac = hmac.digest(self.site.signer.key, f"form {nonce} {self.identity}".encode(), "sha256")
        return urlsafe_b64encode(mac[:18]).decode()

    def is_form_token(self, token: str) -> bool:
        sent = self.cookies.get(f"{self.site.name}_visit")
        return bool(sent) and hmac.compare_digest(token.encode(), self.form_token().encode())

    def render(self, template: str, *, status: int = 200, **context: Any) -> Response:
        flash = self._take_flash()
        more = {"visit": self, "path": self.request.url.path, "flash": flash, "form_token": self.form_token()}
        response = self.site.render(template, {**self.shared, **more, **context}, status=status)
        self.cookies.apply(response)
        return response

    def repeat(self, status: int, body: bytes) -> Response:
        """What was answered before: a page, or a redirect to a path of the site."""
        if status == 303:
            return self.redirect(body.decode(), "This was done already, and not again.")
        response = HTMLResponse(body, status, headers=_HEADERS)
        self.cookies.apply(response)
        return response

    def redirect(self, path: str, message: str | None = None, *, tone: Tone = "done") -> Response:
        """To a page of this site after a form (303), which then shows the message."""
        if message is not None:
            claims = {"text": message, "tone": tone}
            signed = self.site.signer.sign(f"{self.site.name}:flash", claims, lifetime=_FLASH_LIFETIME)
            self.cookies.set(f"{self.site.name}_flash", signed, max_age=_FLASH_LIFETIME)
        response = RedirectResponse(self.site.root + path, 303, headers=_HEADERS)
        self.cookies.apply(response)
        return response

    def to_sign_in(self) -> Response:
        """For what needs a session: it leads back to the page, or to that of the form, after signing in."""
        url, is_form = self.request.url, self.request.method == "POST"
        if url.path == f"{self.site.root}/sign-out":
            return self.redirect("/sign-in")
        wanted = self.form_page if is_form else self.local(f"{url.path}?{url.query}" if url.query else url.path)
        query = f"?{urlencode({'next': self.site.root + wanted})}" if wanted.startswith("/") else ""
        return self.redirect(f"/sign-in{query}", _NOT_SENT if is_form else None, tone="problem")

    def query(self, **changes: str | None) -> str:
        """The query of this page with other values of some parameters; None leaves one out."""
        kept = {name: value for name, value in self.request.query_params.items() if name not in changes}
        return urlencode({**kept, **{name: value for name, value in changes.items() if value is not None}})

    @property
    def form_page(self) -> str:
        """The page that showed the form, as the browser says: its path below the root, to lead back to."""
        try:
            sent = urlsplit(self.request.headers.get("referer", ""))
        except ValueError:  # `http://[`
            return ""
        query = f"?{sent.query}" if sent.query else ""
        return self.local(sent.path + query) if sent.netloc == self.request.headers.get("host") else ""

    def local(self, path: str | None) -> str:
        """A path below the site's root, without it, or the start page for one that leads elsewhere."""
        return local_path(self.site.root, path)

    def _take_flash(self) -> dict[str, Any] | None:
        name = f"{self.site.name}_flash"
        sent = self.cookies.get(name)
        if sent is None:
            return None
        if not self.is_partial:
            self.cookies.delete(name)
        return self.site.signer.read(f"{self.site.name}:flash", sent)


def local_path(root: str, path: str | None) -> str:
    """`/keys?x=1` for `/portal/keys?x=1`; empty for anything that a browser could take for another place."""
    if not path or any(character <= " " or character in '\\"<>' for character in path):
        return ""
    try:
        parts = urlsplit(path)
    except ValueError:  # `//[`
        return ""
    dotted = parts.path.lower().replace("%2e", ".")  # which browsers take for a dot
    is_below = parts.path == root or parts.path.startswith(f"{root}/")
    if parts.scheme or parts.netloc or not is_below or "//" in parts.path or ".." in dotted:
        return ""
    query = f"?{quote(parts.query, safe='=&%+:,-._~')}" if parts.query else ""
    return parts.path.removeprefix(root) + query
