"""What pyproject.toml cannot say: with GATEWAY_COMPILE=1 the modules that run for each call are compiled by mypyc.

Why, and what it measures: docs/decisions/0017-compiled-wheel.md. `make wheel` builds it; without the variable this is
the plain package, which needs no C compiler.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
# What runs for each call.
HOT = (
    "policies/access.py",
    "policies/admission.py",
    "policies/caps.py",
    "policies/idempotency.py",
    "policies/keys.py",
    "policies/limits.py",
    "policies/model.py",
    "policies/pricing.py",
    "policies/records.py",
    "gateway/clock.py",
    "gateway/metrics.py",
    "gateway/request_ids.py",
    "gateway/meter/claims.py",
    "gateway/meter/epochs.py",
    "gateway/meter/errors.py",
    "gateway/meter/keys.py",
    "gateway/meter/link.py",
    "gateway/meter/meter.py",
    "gateway/meter/node.py",
    "gateway/meter/packing.py",
    "gateway/meter/pipe.py",
    "gateway/meter/recall.py",
    "gateway/meter/terms.py",
    "gateway/proxy/*.py",
    "gateway/proxy/listener/*.py",
    "gateway/upstream/*.py",
)


def compiled_modules() -> list[str]:
    """Paths below the root. mypyc has no async generators, so modules with one are left to the interpreter."""
    found = sorted(path for pattern in HOT for path in ROOT.glob(pattern) if path.name != "__init__.py")
    return [str(path.relative_to(ROOT)) for path in found if not has_async_generator(path.read_text())]


def has_async_generator(source: str) -> bool:
    coroutines = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AsyncFunctionDef))
    return any(isinstance(node, ast.Yield) for coroutine in coroutines for node in ast.walk(coroutine))


def main() -> None:
    extensions = []
    if os.environ.get("GATEWAY_COMPILE") == "1":
        from mypyc.build import mypycify  # needs mypy, and the dependencies for their types

        extensions = mypycify(compiled_modules(), opt_level="2", debug_level="0", multi_file=True, group_name="gateway")
    setup(ext_modules=extensions)


if __name__ == "__main__":
    main()
