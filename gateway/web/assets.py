"""Static files of a site, under names that hold a digest of their content: a browser keeps them for a year."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.web.branding import Branding

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_EXTENSIONS = {"image/svg+xml": "svg", "image/png": "png", "image/webp": "webp", "image/jpeg": "jpg"}
# A logo may be an SVG, which is a document of its own when it is opened by itself.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"


class Asset(NamedTuple):
    content: bytes
    media_type: str
    etag: str


class Assets:
    """The files in `static/`, the accent and the logo, below a path of the site."""

    def __init__(self, root: str, branding: Branding) -> None:
        self._root = f"{root}/static/"
        self._by_name: dict[str, Asset] = {}
        self._urls: dict[str, str] = {}
        for name, (content, media_type) in _files(branding).items():
            digest = urlsafe_b64encode(sha256(content).digest()[:9]).decode()
            stem, _, extension = name.rpartition(".")
            full = f"{stem}-{digest}.{extension}"
            self._by_name[full] = Asset(content, media_type, f'"{digest}"')
            self._urls[stem if stem in ("brand", "logo") else name] = self._root + full

    def url(self, name: str) -> str:
        """Where the file is. Raises KeyError."""
        return self._urls[name]

    def has(self, name: str) -> bool:
        return name in self._urls

    def route(self) -> Route:
        return Route(self._root + "{name}", self._serve, methods=["GET"])

    async def _serve(self, request: Request) -> Response:
        found = self._by_name.get(request.path_params["name"])
        if found is None:
            return Response("There is no such file.", 404, media_type="text/plain")
        headers = {
            "etag": found.etag,
            "cache-control": "public, max-age=31536000, immutable",
            "content-security-policy": _POLICY,
        }
        known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
        if found.etag in known:
            return Response(status_code=304, headers=headers)
        return Response(found.content, media_type=found.media_type, headers=headers)


def _files(branding: Branding) -> Mapping[str, tuple[bytes, str]]:
    found = {
        each.name: (each.read_bytes(), _TYPES[each.name.rpartition(".")[2]])
        for each in files("gateway.web").joinpath("static").iterdir()
    }
    if css := branding.css():
        found["brand.css"] = (css.encode(), _TYPES["css"])
    if branding.logo is not None:
        content, media_type = branding.logo
        found[f"logo.{_EXTENSIONS[media_type]}"] = (content, media_type)
    return found
