"""A configuration before validation: one tree of plain data with the place of each value.

YAML is read by the core schema of YAML 1.2, in which `no`, `010` and `1:30` are text: in YAML 1.1 they would be false,
8 and 90. Keys written twice are problems, not overrides; so are those without a colon, as `99` in `{price: 9,99}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

import yaml

from gateway.config.errors import ConfigProblem, KeyPath, Origin, dotted

Tree = dict[str, object]

_INTEGER = re.compile(r"[-+]?(0|[1-9]\d{0,18})", re.ASCII)
_FRACTION = re.compile(r"[-+]?\d{1,18}\.\d{1,18}", re.ASCII)
_WORDS: Mapping[str, object] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_ALONE = "stands without a colon and a value; decimals have a point: 9.99"
# Settings nest 6 deep at most; an alias inside its own anchor nests for ever.
_DEEPEST = 16


class _Fraction(Decimal):
    """Stands in messages as a number, as whole ones do."""

    def __repr__(self) -> str:
        return f"{self:f}"


@dataclass(slots=True)
class Document:
    """The tree and the origin of each key. A key without a value (`key:`) is absent."""

    source: str
    tree: Tree = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)

    def origin(self, path: KeyPath) -> Origin:
        """The origin of the value at `path`, or that of its nearest parent."""
        for length in range(len(path), -1, -1):
            if (found := self.origins.get(path[:length])) is not None:
                return found
        return Origin(self.source)

    def report(self, path: KeyPath, message: str) -> None:
        self.problems.append(ConfigProblem(self.origin(path), dotted(path), message))


def read_yaml(text: str, source: str) -> Document:
    """Parses the text of a file; errors become problems of the document."""
    document = Document(source)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        document.problems.append(ConfigProblem(Origin(source, line), "", f"not YAML: {error.problem or error.context}"))
        return document
    except yaml.YAMLError as error:
        document.problems.append(ConfigProblem(Origin(source), "", f"not YAML: {error}"))
        return document
    except RecursionError:
        document.problems.append(ConfigProblem(Origin(source), "", "is nested too deeply"))
        return document
    tree = None if root is None else _Builder(document, text).value(root, ())
    if isinstance(tree, dict):
        document.tree = tree
    elif tree is not None:
        document.problems.append(ConfigProblem(Origin(source, 1), "", "must be a mapping of sections such as server:"))
    return document


def read_value(text: str) -> object:
    """One value from an environment variable: a YAML list or map where it is one, else a plain scalar."""
    if text.lstrip()[:1] in ("[", "{"):
        scratch = read_yaml(f"value: {text}", "")
        if not scratch.problems:
            return scratch.tree.get("value")
    return _scalar(text.strip())


class _Builder:
    """Turns the nodes of one file into plain data, and records their lines and problems."""

    def __init__(self, document: Document, text: str) -> None:
        self._document = document
        self._text = text

    def value(self, node: yaml.Node, path: KeyPath) -> object:
        self._document.origins.setdefault(path, Origin(self._document.source, node.start_mark.line + 1))
        if len(path) > _DEEPEST:
            self._document.report(path[:1], "is nested too deeply")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        is_plain = isinstance(node, yaml.ScalarNode) and node.style is None and not node.tag.endswith(":str")
        return _scalar(node.value) if is_plain else str(node.value)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> Tree:
        tree: Tree = {}
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = self._key(key_node), key_node.start_mark.line + 1
            here = (*path, key)
            if key in seen:
                origin = Origin(self._document.source, line)
                problem = ConfigProblem(origin, dotted(here), f"is written twice, first on line {seen[key]}")
                self._document.problems.append(problem)
                continue
            seen[key] = line
            self._document.origins[here] = Origin(self._document.source, line)
            if self._is_alone(key_node, value_node):
                self._document.report(here, _ALONE)
            value = self.value(value_node, here)
            if value is not None:
                tree[key] = value
        return tree

    def _is_alone(self, key: yaml.Node, value: yaml.Node) -> bool:
        """Whether no colon follows the key. The value of an alias stands before it."""
        ends, begins = key.end_mark.index, value.start_mark.index
        is_empty = isinstance(value, yaml.ScalarNode) and value.style is None and not value.value
        return is_empty and ends <= begins and ":" not in self._text[ends:begins]

    def _key(self, node: yaml.Node) -> str:
        return str(node.value) if isinstance(node, yaml.ScalarNode) else "?"


def _scalar(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return _Fraction(text) if _FRACTION.fullmatch(text) else text
