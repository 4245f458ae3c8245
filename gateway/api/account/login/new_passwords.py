"""Which new passwords are taken: those by `policies.access.passwords` that are not on the list that zxcvbn ships."""

from __future__ import annotations

import asyncio
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_loader
from pathlib import Path

from gateway.api.errors import Invalid
from policies.access import passwords

_PACKAGE, _MODULE = "zxcvbn", "frequency_lists"


async def check_new_password(password: str, *, email: str, field: str) -> None:
    """Raises Invalid."""
    objection = passwords.objection(password, email=email)
    if objection is None:
        if not _common.cache_info().currsize:
            await asyncio.to_thread(_common)
        if passwords.normalised(password).casefold() in _common():
            objection = passwords.COMMON
    if objection is not None:
        raise Invalid(field, objection)


@cache
def _common() -> frozenset[str]:
    """Those long enough to be taken at all. The first call reads the list, which takes some tenths of a second.

    The module of the lists alone is loaded, and forgotten: the package would rank a hundred thousand words beside it.
    """
    package = find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise ImportError(f"{_PACKAGE} is not installed")
    path = Path(package.submodule_search_locations[0]) / f"{_MODULE}.py"
    loader = SourceFileLoader(_MODULE, str(path))
    spec = spec_from_loader(_MODULE, loader)
    if spec is None:
        raise ImportError(f"{path} cannot be loaded")
    module = module_from_spec(spec)
    loader.exec_module(module)
    listed: list[str] = module.FREQUENCY_LISTS["passwords"]
    return frozenset(each for each in listed if len(each) >= passwords.MIN_LENGTH)
