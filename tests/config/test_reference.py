"""docs/reference/settings.md says of every setting what the configuration model says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import load
from gateway.config.reference import Setting, markdown, settings

# Sections that are left out as a whole, and have keys that are required.
OPTIONAL = ("tracing.", "console.trusted_proxy.", "console.oidc.")
SETTINGS = [setting for section in settings().values() for setting in section]
PAGE = Path(__file__).parents[2] / "docs/reference/settings.md"


def test_setting_reference_is_what_the_model_says() -> None:
    assert PAGE.read_text("utf-8") == markdown(), "run `make reference`"


@pytest.mark.parametrize("setting", SETTINGS, ids=[setting.key for setting in SETTINGS])
def test_setting_has_a_description_that_fits_its_cell(setting: Setting) -> None:
    assert setting.description.endswith(".")
    assert "|" not in "".join(setting)


@pytest.mark.parametrize(
    "setting",
    [each for each in SETTINGS if each.variable and each.default.startswith("`") and not each.key.startswith(OPTIONAL)],
    ids=lambda setting: setting.key,
)
def test_default_in_the_reference_is_the_default_of_the_product(setting: Setting) -> None:
    """The default as the page writes it, set by its variable, changes nothing."""
    secrets = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
    value = setting.default.strip("`")
    assert value != ""
    overridden = load(None, secrets | {setting.variable: value})
    assert overridden == load(None, secrets)
