"""What a site looks like by configuration: its name, logo, links, texts, and an accent that stays readable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

# The backgrounds of static/web.css that the accent stands on.
LIGHT_SURFACE, DARK_SURFACE = "#ffffff", "#171c25"
MIN_CONTRAST = 4.6  # above the 4.5 of WCAG 2.2 AA (1.4.3), for tints of the surface


class Link(NamedTuple):
    label: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Branding:
    """`logo` is a file with its media type; `accent` a colour such as #2450b8, None for the style sheet's own."""

    name: str = "Gateway"
    logo: tuple[bytes, str] | None = None
    accent: str | None = None
    links: tuple[Link, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)

    def css(self) -> str:
        """The accent for light and for dark pages, moved towards black or white until text in it can be read."""
        if self.accent is None:
            return ""
        light, dark = readable(self.accent, LIGHT_SURFACE), readable(self.accent, DARK_SURFACE)
        return (
            f":root{{--accent:{light};--on-accent:#ffffff}}\n"
            f"@media (prefers-color-scheme:dark){{:root{{--accent:{dark};--on-accent:#10141b}}}}\n"
        )


def readable(colour: str, background: str) -> str:
    """The colour, or one nearest to it that has the least contrast to the background."""
    target = "#000000" if luminance(background) > 0.5 else "#ffffff"
    for step in range(21):
        mixed = _mix(colour, target, step / 20)
        if contrast(mixed, background) >= MIN_CONTRAST:
            return mixed
    return target


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, "contrast ratio"."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """WCAG 2.2, "relative luminance"."""
    red, green, blue = (_linear(channel / 255) for channel in _channels(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _mix(one: str, other: str, share: float) -> str:
    mixed = (round(a + (b - a) * share) for a, b in zip(_channels(one), _channels(other), strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
