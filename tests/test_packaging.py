"""An installed gateway has every file that a checkout has."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("gateway", "policies", "migrations")


def test_every_file_of_a_package_is_installed_with_it() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = ["*.py", *settings["package-data"]["*"]]
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    left_out = [
        str(path.relative_to(ROOT))
        for path in files
        if "__pycache__" not in path.parts and not any(fnmatch(path.name, pattern) for pattern in patterns)
    ]

    assert left_out == []


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}

    assert [str(each.relative_to(ROOT)) for each in folders if not (each / "__init__.py").exists()] == []
