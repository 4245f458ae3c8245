"""Whatever accent is configured, text in it and on it can be read in light and in dark."""

from __future__ import annotations

import re

import pytest

from gateway.web.branding import DARK_SURFACE, LIGHT_SURFACE, Branding, contrast

AA = 4.5


@pytest.mark.parametrize("accent", ["#2450b8", "#ffff00", "#000000", "#ffffff", "#777777", "#00ff88", "#ff0066"])
def test_an_accent_is_readable_on_both_surfaces_and_under_text(accent: str) -> None:
    light, on_light, dark, on_dark = re.findall(r"#[0-9a-f]{3,6}\b", Branding(accent=accent).css())
    assert contrast(light, LIGHT_SURFACE) >= AA
    assert contrast(dark, DARK_SURFACE) >= AA
    assert contrast(light, on_light) >= AA
    assert contrast(dark, on_dark) >= AA


def test_an_accent_that_is_readable_stays_as_it_is() -> None:
    assert "--accent:#2450b8;" in Branding(accent="#2450b8").css()


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
