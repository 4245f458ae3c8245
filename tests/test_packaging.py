"""An installed gateway has every file that a checkout has."""

from __future__ import annotations

import ast
import runpy
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


def test_what_runs_for_each_call_is_compiled_where_that_is_asked_for() -> None:
    built = runpy.run_path(str(ROOT / "setup.py"), run_name="looked_at")
    compiled = built["compiled_modules"]()

    assert all(list(ROOT.glob(pattern)) for pattern in built["HOT"])
    assert {"policies/admission.py", "gateway/meter/meter.py", "gateway/proxy/handler.py"} <= set(compiled)
    assert "gateway/proxy/bodies.py" not in compiled, "mypyc has no async generators"


def test_no_compiled_field_is_annotated_as_a_bare_object() -> None:
    """mypyc 2.4 looks for `object` among a module's globals when it makes a NamedTuple or dataclass, and fails."""
    built = runpy.run_path(str(ROOT / "setup.py"), run_name="looked_at")
    bare = [
        f"{path}:{field.lineno}"
        for path in built["compiled_modules"]()
        for made in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(made, ast.ClassDef)
        and not any(isinstance(b, ast.Name) and b.id == "Protocol" for b in made.bases)
        for field in made.body
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.annotation, ast.Name)
        and field.annotation.id == "object"
    ]

    assert bare == []
