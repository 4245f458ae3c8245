"""Settings that override the file: `GATEWAY_SECTION__KEY` variables and arguments by dotted path.

A variable counts as a setting if it holds `__` or names a whole section. Others are ignored, because platforms define
their own (Kubernetes gives every pod GATEWAY_PORT and GATEWAY_SERVICE_HOST for a service called gateway). An empty
variable counts as unset: compose files pass `${X:-}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from gateway.config.document import Document, Tree, read_value
from gateway.config.errors import ConfigProblem, KeyPath, Origin

_PREFIX = "GATEWAY_"
_AS_WRITTEN = frozenset(("GATEWAY_DATABASE__PASSWORD", "GATEWAY_REDIS__PASSWORD"))  # any characters, none of them YAML
_REFERENCE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)\}|(\{))", re.ASCII)


def apply_environment(document: Document, environ: Mapping[str, str], sections: Iterable[str]) -> None:
    """Overrides settings of the tree by variables, which reach an entry of a list by number, name or id."""
    whole = {f"{_PREFIX}{section.upper()}" for section in sections}
    for variable in sorted(environ):
        is_setting = variable.startswith(_PREFIX) and ("__" in variable or variable in whole)
        if is_setting and environ[variable].strip():
            parts = variable.removeprefix(_PREFIX).lower().split("__")
            written = environ[variable]
            _lay(document, parts, written if variable in _AS_WRITTEN else read_value(written), Origin(variable))


def apply_overrides(document: Document, overrides: Mapping[str, object]) -> None:
    """Overrides settings of the tree by dotted path, such as `server.public` or `upstreams.ai.targets`."""
    for key, value in overrides.items():
        _lay(document, key.split("."), value, Origin("command line"))


def expand(text: str, environ: Mapping[str, str]) -> str:
    """`${NAME}` by its value in the environment, `$$` by `$`. Raises ValueError naming what is not set."""
    return _REFERENCE.sub(lambda match: _expansion(match, environ), text)


def _expansion(match: re.Match[str], environ: Mapping[str, str]) -> str:
    if match[0] == "$$":
        return "$"
    if match[1] is None:
        raise ValueError("holds ${ without a name and }; write $$ for a plain $")
    if match[1] not in environ:
        raise ValueError(f"needs the environment variable {match[1]}, which is not set")
    return environ[match[1]]


def _lay(document: Document, parts: list[str], value: object, origin: Origin) -> None:
    node: object = document.tree
    path: KeyPath = ()
    for depth, part in enumerate(parts):
        key = _find(node, part)
        if key is None:
            document.problems.append(ConfigProblem(origin, ".".join(parts), _no_entry(node, part)))
            return
        path = (*path, key)
        if depth == len(parts) - 1:
            _forget(document, path)
            document.origins[path] = origin
            _put(node, key, value)
        else:
            node = _child(node, key)
            document.origins.setdefault(path, origin)


def _find(node: object, part: str) -> str | int | None:
    """The key in the tree that a part of the name of a variable means; a new key where a mapping has none."""
    if isinstance(node, dict):
        return next((key for key in node if _spelling(key) == _spelling(part)), part)
    if isinstance(node, list):
        if part.isdecimal():
            return int(part) if int(part) < len(node) else None
        return next((index for index, entry in enumerate(node) if _is_called(entry, part)), None)
    return None


def _child(node: object, key: str | int) -> object:
    if isinstance(node, dict):
        return node.setdefault(key, Tree())
    return node[key] if isinstance(node, list) and isinstance(key, int) else None


def _put(node: object, key: str | int, value: object) -> None:
    """Sets the value; null removes a key, so that the default applies."""
    if isinstance(node, dict) and value is None:
        node.pop(key, None)
    elif isinstance(node, dict) or (isinstance(node, list) and isinstance(key, int)):
        node[key] = value  # type: ignore[index]  # a list's key was just seen to be a number


def _is_called(entry: object, part: str) -> bool:
    names = (entry.get("name"), entry.get("id")) if isinstance(entry, dict) else ()
    return any(isinstance(name, str) and _spelling(name) == _spelling(part) for name in names)


def _spelling(name: object) -> str:
    """Without case and dashes, which variables lack."""
    return re.sub(r"[^a-z0-9]", "_", str(name).lower())


def _no_entry(node: object, part: str) -> str:
    return f"has no entry {part!r}" if isinstance(node, list) else f"{part!r} stands under a value, not a section"


def _forget(document: Document, path: KeyPath) -> None:
    for known in [known for known in document.origins if known[: len(path)] == path]:
        del document.origins[known]
