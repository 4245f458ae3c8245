"""Mapping files: which table and columns of the source are which section and fields here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from gateway.importing.sections import SECTIONS, Section

PRESETS: Mapping[str, str] = {
    "plan-permissions": "integer plan ids, comma-separated permissions and a usage table",
    "firebase": "string user ids, user_subscriptions, user_credits, payment_history and usage_logs",
    "customers": "customers, products and plans with the ids of a payment provider",
}
_NAMESPACE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_TAG = "tag:yaml.org,2002:"
_CORE = {
    "null": (r"~|null|Null|NULL|", ("~", "n", "N", "")),
    "bool": (r"true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", tuple("-+0123456789")),
    "float": (r"[-+]?(?:0|[1-9][0-9]*)\.[0-9]+", tuple("-+0123456789")),
    "merge": (r"<<", ("<",)),
}


class _Loader(yaml.SafeLoader):
    """The core schema of YAML 1.2, as gateway.yaml is read: `no`, `010` and `1:30` are text, as they are in columns.

    Keys are text too, and none is written twice.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - as the base class has it

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        found: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: dict[str, int] = {}
        for key, _ in found.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is a list or a map", problem_mark=key.start_mark)
            if key.value in seen:
                problem = f"{key.value} is written twice, first on line {seen[key.value]}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen[key.value] = key.start_mark.line + 1
            if key.tag != f"{_TAG}merge":
                key.tag = f"{_TAG}str"
        return found


for _name, (_form, _first) in _CORE.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^(?:{_form})$"), list(_first))


class InvalidMapping(ValueError):  # noqa: N818 - named for the condition
    """The mapping file cannot be read or does not fit the source; the message says where and why."""


def _as_list(written: object) -> object:
    return [written] if isinstance(written, str) else written


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FieldSource(_Strict):
    """Where a field comes from: a column, several, or a value that is the same for all rows.

    Of the names under `column` the first that the table has is read. `map` translates values, which are compared as
    lower-case text (`"*"` is any other), `default` stands for NULL.
    """

    column: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    columns: tuple[str, ...] = ()
    join: str = " "
    value: Any = None
    map: dict[Any, Any] = Field(default_factory=dict)
    default: Any = None
    divide_by: Annotated[int, Field(ge=1)] | None = None
    multiply_by: Annotated[int, Field(ge=1)] | None = None
    split: Annotated[str, Field(min_length=1)] | None = None
    optional: bool = False

    @model_validator(mode="after")
    def _has_one_source(self) -> FieldSource:
        given = [name for name in ("column", "columns") if getattr(self, name)]
        given += ["value"] if "value" in self.model_fields_set else []
        if len(given) != 1:
            raise ValueError("needs one of column, columns and value")
        return self

    @property
    def translations(self) -> dict[str, Any]:
        return {str(key).strip().lower(): translated for key, translated in self.map.items()}


def _as_field(written: object) -> object:
    return {"column": written} if isinstance(written, str | list) else written


class TableMapping(_Strict):
    """A table or view. `key` is the unique column that other tables refer to; left out: its primary key.

    `where` is a condition in the source's SQL. `optional`: a source without the table has nothing of this section.
    """

    table: str
    key: str | None = None
    where: str | None = None
    optional: bool = False
    fields: dict[str, Annotated[FieldSource, BeforeValidator(_as_field)]]


class SourceMapping(_Strict):
    """`source` names the source for good: what is imported has ids that are made of it and of the source's keys."""

    source: Annotated[str, Field(pattern=f"^{_NAMESPACE.pattern}$")]
    products: TableMapping | None = None
    plans: TableMapping | None = None
    users: TableMapping | None = None
    subscriptions: TableMapping | None = None
    credits: TableMapping | None = None
    keys: TableMapping | None = None
    payments: TableMapping | None = None
    usage: TableMapping | None = None

    @model_validator(mode="after")
    def _fields_are_known(self) -> SourceMapping:
        for section, table in self.tables().items():
            known = SECTIONS[section]
            if unknown := sorted(table.fields.keys() - known.keys()):
                raise ValueError(f"{section}.fields: no such field: {', '.join(unknown)}; there are {', '.join(known)}")
            required = {name for name, target in known.items() if target.is_required}
            if missing := sorted(required - table.fields.keys()):
                raise ValueError(f"{section}.fields: {', '.join(missing)} is required")
        return self

    def named(self, source: str) -> SourceMapping:
        """The same for another source. Raises InvalidMapping."""
        if not _NAMESPACE.fullmatch(source):
            raise InvalidMapping(f"source: {source!r} is not a letter and up to 31 letters, digits, _ and -, all small")
        return self.model_copy(update={"source": source})

    def tables(self) -> dict[Section, TableMapping]:
        """The mapped sections, in the order in which they are imported."""
        found = {section: getattr(self, section) for section in Section}
        return {section: table for section, table in found.items() if table is not None}


def load(path: Path) -> SourceMapping:
    """Raises InvalidMapping."""
    try:
        return parse(path.read_text("utf-8"), name=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidMapping(f"{path}: {error}") from error


def load_preset(name: str) -> SourceMapping:
    return parse(preset_text(name), name=name)


def preset_text(name: str) -> str:
    """The mapping file of a preset, to start from."""
    return resources.files("gateway.importing").joinpath("presets", f"{name}.yaml").read_text("utf-8")


def parse(written: str, *, name: str) -> SourceMapping:
    """Raises InvalidMapping."""
    try:
        document = yaml.load(written, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise InvalidMapping(f"{name}: {error}") from error
    except (ValueError, LookupError, AttributeError, RecursionError) as error:  # of a date such as 2026-02-30
        raise InvalidMapping(f"{name}: has a value that cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InvalidMapping(f"{name}: expected a map with source, users, plans, ...")
    try:
        return SourceMapping.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidMapping(f"{name}: {f'{place}: ' if place else ''}{first['msg']}") from error
