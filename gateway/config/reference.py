"""docs/reference/settings.md: every setting with its type, default, environment variable and meaning.

`python -m gateway.config.reference` prints it; `make reference` writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, is_dataclass
from decimal import Decimal
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from gateway.config.loading import Sections
from gateway.config.model import Upstream
from gateway.config.plans import PlanSpec
from gateway.config.prices import PriceEntry, PriceListEntry
from gateway.config.quantities import Address, Kind
from gateway.config.routes import RouteEntry
from gateway.config.secrets import COMMAND, USED_BY, VARIABLES
from gateway.config.validation import extras_of, key_of

_HEAD = """\
# Settings

`make reference` writes this page. A setting stands in `gateway.yaml` under its key, or in the environment variable,
which outranks the file; `gateway check` validates both. A variable reaches into a list by the name, id or number of
an entry, such as `GATEWAY_ROUTES__GENERATE__PRICE__CREDITS`. Its value is read as YAML reads one (`[a, b]`, `true`,
`null`), but the passwords of both stores are taken as they are written.
"""
_ENTRIES: dict[str, tuple[tuple[str, type], ...]] = {
    "upstreams": (("upstreams.NAME", Upstream),),
    "prices": (("prices.NAME", PriceEntry), ("prices.NAME with reader", PriceListEntry)),
    "routes": (("routes[]", RouteEntry),),
    "plans": (("plans[]", PlanSpec),),
}
_SCALARS = {str: "text", int: "whole number", bool: "`true` or `false`"}
_DURATIONS = {"d": Decimal(86400), "h": Decimal(3600), "m": Decimal(60), "s": Decimal(1)}
_SIZES = {"MiB": Decimal(2**20), "KiB": Decimal(2**10)}
_TABLE_HEAD = ["| key | type | default | environment variable | meaning |", "|---|---|---|---|---|"]

_ABOUT_SECRETS = (
    "Secrets are environment variables only; embedded stores generate the first three. A process asks for those of"
    " its role, and has no other. Each may be given as"
    " `NAME_FILE`, the path of a file that holds it, and so may the URLs and passwords of both stores"
    " (`GATEWAY_DATABASE__URL_FILE`, `GATEWAY_DATABASE__PASSWORD_FILE`, ..)."
)


class Setting(NamedTuple):
    key: str
    type: str
    default: str
    description: str

    @property
    def variable(self) -> str:
        """Empty for a setting of an entry of a list or map, whose variable holds the name of the entry."""
        return "" if "[]" in self.key or ".NAME" in self.key else f"GATEWAY_{self.key.upper().replace('.', '__')}"


def settings() -> dict[str, list[Setting]]:
    """All settings by section, in the order of the file."""
    found: dict[str, list[Setting]] = {}
    for name, hint in get_type_hints(Sections, include_extras=True).items():
        if name in _ENTRIES:
            found[name] = [row for prefix, shape in _ENTRIES[name] for row in _settings_of(shape, prefix)]
        elif (section := _dataclass_in(hint)) is not None:
            found[name] = list(_settings_of(section, name))
        else:
            found[name] = [_setting(name, hint, Sections.__dataclass_fields__[name])]
    return found


def markdown() -> str:
    parts = [_HEAD]
    for section, rows in settings().items():
        parts += [f"## {section}", "", *_TABLE_HEAD, *map(_row, rows), ""]
    parts += ["## Secrets", "", _ABOUT_SECRETS, ""]
    parts += ["| environment variable | used by | meaning |", "|---|---|---|"]
    parts += [f"| `{variable}` | {_users_of(variable)} | {meaning} |" for variable, meaning in VARIABLES.items()]
    return "\n".join(parts) + "\n"


def _users_of(variable: str) -> str:
    roles = [role for role, used in USED_BY.items() if variable in used]
    return ", ".join("commands" if role == COMMAND else role for role in roles) or "every role"


def _settings_of(shape: Any, prefix: str) -> Iterator[Setting]:
    hints = get_type_hints(shape, include_extras=True)
    for name, field in shape.__dataclass_fields__.items():
        if shape is Upstream and name == "name":
            continue  # the key of the entry
        key = f"{prefix}.{key_of(name, hints[name])}"
        is_named = any(isinstance(each, Kind) for each in extras_of(hints[name]))
        nested = None if is_named else _dataclass_in(hints[name])
        if nested is None:
            yield _setting(key, hints[name], field)
        else:
            yield from _settings_of(nested, f"{key}[]" if _is_list(hints[name]) else key)


def _setting(key: str, hint: Any, field: Field[Any]) -> Setting:
    extras = extras_of(hint)
    description = next((each.description for each in extras if isinstance(each, FieldInfo) and each.description), "")
    return Setting(key, _type_of(hint), _default_of(field, _type_of(hint)), description)


def _row(setting: Setting) -> str:
    variable = f"`{setting.variable}`" if setting.variable else ""
    return f"| `{setting.key}` | {setting.type} | {setting.default} | {variable} | {setting.description} |"


def _type_of(hint: Any) -> str:
    kind = next((each.label for each in extras_of(hint) if isinstance(each, Kind)), None)
    if kind is not None:
        return kind
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(bare) is Literal:
        return " or ".join(f"`{each}`" for each in get_args(bare))
    if get_origin(bare) in (Union, UnionType):
        return " or ".join(_type_of(each) for each in get_args(bare) if each is not type(None))
    if get_origin(bare) in (tuple, frozenset):
        return f"list: {_type_of(get_args(bare)[0])}"
    return _SCALARS[bare]


def _default_of(field: Field[Any], kind: str) -> str:
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    if value is MISSING:
        return "required"
    if value is None:
        return "`refuse`" if kind.startswith("`refuse`") else "null"
    return f"`{_format(value, kind)}`"


def _format(value: Any, kind: str) -> str:
    """The value as the file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if kind.startswith("duration"):
        return _in_largest_unit(Decimal(str(value)), _DURATIONS, "ms")
    if kind.startswith("size"):
        return _in_largest_unit(Decimal(value), _SIZES, "B")
    if isinstance(value, frozenset | tuple):
        members = map(str, value)
        return f"[{', '.join(members if isinstance(value, tuple) else sorted(members))}]"
    return "{}" if value == {} else str(value)


def _in_largest_unit(value: Decimal, units: dict[str, Decimal], least: str) -> str:
    for unit, size in units.items():
        if value >= size and value % size == 0:
            return f"{value // size}{unit}"
    return f"{int(value * 1000)}ms" if least == "ms" else f"{value}{least}"


def _is_list(hint: Any) -> bool:
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return get_origin(bare) is tuple


def _dataclass_in(hint: Any) -> Any:
    if isinstance(hint, type) and is_dataclass(hint) and hint is not Address:
        return hint
    return next((found for part in get_args(hint) if (found := _dataclass_in(part)) is not None), None)


if __name__ == "__main__":
    sys.stdout.write(markdown())
