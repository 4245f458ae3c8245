"""Installing takes exactly what was reviewed: every dependency is locked by hash, and from nowhere in particular."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCK_FILES = ("requirements.lock", "requirements-dev.lock", "requirements-server.lock", "requirements-extras.lock")
EXTRAS = ("costs", "mysql", "oidc", "parquet", "s3", "scripts", "tracing")
NODE_CLIENTS = "tests/guarantees/ai/node"


def locked(name: str) -> dict[str, str]:
    """Package name to its whole entry: `name==version ; marker` and the hashes."""
    entries = re.split(r"\n(?=\w)", (ROOT / name).read_text())
    return {re.split(r"[=\[]", entry)[0]: entry for entry in entries}


def declared(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = sum((project["optional-dependencies"][extra] for extra in extras), project["dependencies"])
    return {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requirements}


@pytest.mark.parametrize("name", LOCK_FILES)
def test_every_locked_package_has_hashes_and_an_exact_version(name: str) -> None:
    for entry in locked(name).values():
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", entry, re.DOTALL), entry


@pytest.mark.parametrize("name", [*LOCK_FILES, f"{NODE_CLIENTS}/package-lock.json"])
def test_no_lock_file_names_a_place_to_download_from(name: str) -> None:
    assert not re.search(r"://|index-url|find-links|trusted-host", (ROOT / name).read_text())


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("requirements.lock", ("embedded",)),
        ("requirements-dev.lock", ("embedded", "dev")),
        ("requirements-server.lock", ()),
        ("requirements-extras.lock", EXTRAS),
    ],
)
def test_every_declared_dependency_is_locked(name: str, extras: tuple[str, ...]) -> None:
    assert declared(*extras) | {"setuptools"} <= locked(name).keys()


def test_extras_of_the_image_are_all_but_those_of_embedded_stores_and_development() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*EXTRAS, "embedded", "dev"} == set(project["optional-dependencies"])


def test_the_lock_files_agree() -> None:
    development = locked("requirements-dev.lock")
    for name in ("requirements.lock", "requirements-server.lock", "requirements-extras.lock"):
        for package, entry in locked(name).items():
            assert entry.split()[0] == development[package].split()[0]


def test_every_locked_node_package_has_a_hash_and_every_declared_one_an_exact_version() -> None:
    packages = json.loads((ROOT / NODE_CLIENTS / "package-lock.json").read_text())["packages"]
    declaration = packages.pop("")
    assert all(each["integrity"].startswith("sha512-") for each in packages.values())
    declared_versions = json.loads((ROOT / NODE_CLIENTS / "package.json").read_text())["dependencies"]
    assert declaration["dependencies"] == declared_versions
    assert declared_versions == {name: packages[f"node_modules/{name}"]["version"] for name in declared_versions}
