"""The section `portal` of gateway.yaml: the pages of customers, and what they look like."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from gateway.config.quantities import Flag, Kind, Text, Url, Word, about
from gateway.config.server import Origins

LOGO_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}
MAX_LOGO_BYTES = 256 * 1024
_COLOUR = re.compile(r"#[0-9a-f]{6}")


def _logo(value: object) -> Path | None:
    """Absolute, since child processes may work elsewhere; read here, so that a mistake is found before it matters."""
    if value is None:
        return None
    path = Path(value if isinstance(value, str) else "").absolute()
    try:
        if path.suffix.lower() not in LOGO_TYPES or not path.is_file():
            raise ValueError(f"must be the path of a file that ends in {', '.join(LOGO_TYPES)}, got {value!r}")
        with path.open("rb"):
            size = path.stat().st_size
    except OSError as error:
        raise ValueError(f"cannot be read: {error}") from error
    if size > MAX_LOGO_BYTES:
        raise ValueError(f"may have {MAX_LOGO_BYTES} bytes at most, {path} has {size}")
    return path


def _colour(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _COLOUR.fullmatch(value.lower()):
        raise ValueError(f"must be a colour such as '#2450b8', got {value!r}")
    return value.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class FooterLink:
    label: Annotated[Text, about("What it says.")]
    url: Annotated[Url, about("Where it leads.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Portal:
    enabled: Annotated[Flag, about("Whether `/portal` is served.")] = True
    sign_up: Annotated[Flag, about("Whether strangers may open accounts there.")] = True
    url: Annotated[
        Url | None,
        about(
            "The public listener as customers know it, such as `https://api.example.com`: in examples, links of e-mail"
            " and sessions handed over. null: in examples the address of the request, and no links."
        ),
    ] = None
    name: Annotated[Text, about("Name of your product, on each page.")] = "Gateway"
    logo: Annotated[
        Path | None,
        BeforeValidator(_logo),
        Kind("path of an SVG, PNG, WebP or JPEG file"),
        about("Stands beside the name; 256 KiB at most."),
    ] = None
    accent: Annotated[
        str | None,
        BeforeValidator(_colour),
        Kind("colour, such as `'#2450b8'`"),
        about("Colour of links and buttons, made darker or lighter until text in it can be read; null: blue."),
    ] = None
    links: Annotated[tuple[FooterLink, ...], about("Links at the foot of each page.")] = ()
    welcome: Annotated[Text | None, about("Text over the sign-in form.")] = None
    footer: Annotated[Text | None, about("Text at the foot of each page.")] = None
    first_call: Annotated[Word | None, about("Route of the first call; null: the first that has a price.")] = None
    return_origins: Annotated[
        Origins,
        Kind("list of origins, such as `[https://app.example.com]`"),
        about("Sites of yours that a session which was handed over may lead back to."),
    ] = field(default=())

    def link(self, path: str) -> str | None:
        """A page of the portal as customers reach it; None where that is not known."""
        return None if self.url is None or not self.enabled else f"{self.url}/portal{path}"
