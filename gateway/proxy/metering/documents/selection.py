"""Which values of a JSON text are read: a tree of member names, built once from paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Final


class Leaf(Enum):
    """What is read of a selected value."""

    VALUE = "value"  # itself
    SIZE = "size"  # a number itself, an array its length, a string its characters
    COUNT = "count"  # the same without strings, which count nothing
    TEXT = "text"  # the bytes of a string, summed over all places
    SPAN = "span"  # where it begins and ends


COUNTED: Final = (Leaf.SIZE, Leaf.COUNT)


class Each(Enum):
    """Stands in a path for every element of an array."""

    ELEMENT = "*"


EACH: Final = Each.ELEMENT
INDEX = re.compile("0|[1-9][0-9]{0,8}")  # RFC 6901, section 4
Path = tuple[str | Each, ...]
Fields = dict[str, Any]  # selected values by the name of their leaf


@dataclass(frozen=True)
class Selection:
    """What is read at one place of a document, and below it.

    `members` are those of an object, `each` stands for any element of an array and `at` for the one at an index.
    """

    leaf: Leaf | None = None
    name: str = ""
    members: Mapping[str, Selection] = field(default_factory=dict)
    each: Selection | None = None
    at: Mapping[int, Selection] = field(default_factory=dict)

    @cached_property
    def folded_names(self) -> frozenset[str]:
        return frozenset(name.casefold() for name in self.members)

    @cached_property
    def is_folded(self) -> bool:
        """Whether no name differs from its own case fold."""
        return self.folded_names == self.members.keys()

    @cached_property
    def is_descended(self) -> bool:
        """Whether something is read inside an object or array at this place."""
        return bool(self.members or self.at or self.each is not None)

    @cached_property
    def containers(self) -> Mapping[str, Selection]:
        """The members in which something is read, or that are read as they stand."""
        return {name: below for name, below in self.members.items() if below.is_descended or below.leaf is Leaf.SPAN}

    @cached_property
    def without_texts(self) -> Selection | None:
        """What has to be looked up in a parsed document, whose text is counted by itself."""
        members = {name: below for name, full in self.members.items() if (below := full.without_texts)}
        each = self.each.without_texts if self.each is not None else None
        leaf = None if self.leaf is Leaf.TEXT else self.leaf
        return Selection(leaf, self.name, members, each, self.at) if leaf or members or each or self.at else None

    def element(self, index: int) -> Selection | None:
        return self.at.get(index, self.each)


def select(*values: str, sizes: Iterable[str] = (), texts: Iterable[str] = (), spans: Iterable[str] = ()) -> Selection:
    """The selection of paths such as `choices/*/finish_reason`; each leaf is named by its path."""
    leaves = [(Leaf.VALUE, values), (Leaf.SIZE, sizes), (Leaf.TEXT, texts), (Leaf.SPAN, spans)]
    return select_paths((_path(text), leaf, text) for leaf, texts in leaves for text in texts)


def select_paths(leaves: Iterable[tuple[Path, Leaf, str]]) -> Selection:
    """The selection of paths with the kind and the name of each leaf."""
    selection = Selection()
    for path, leaf, name in leaves:
        selection = _merged(selection, _line(path, Selection(leaf, name)))
    return selection


def _path(text: str) -> Path:
    return tuple(EACH if step == "*" else step for step in text.split("/"))


def _line(path: Path, end: Selection) -> Selection:
    """A selection of one path. A token of digits is a member's name or an index, as in RFC 6901, section 4."""
    if not path:
        return end
    step, below = path[0], _line(path[1:], end)
    if isinstance(step, Each):
        return Selection(each=below)
    return Selection(members={step: below}, at={int(step): below} if INDEX.fullmatch(step) else {})


def _merged(one: Selection | None, other: Selection | None) -> Selection:
    if one is None or other is None:
        return one or other or Selection()
    return Selection(
        one.leaf or other.leaf,
        one.name or other.name,
        {name: _merged(one.members.get(name), other.members.get(name)) for name in [*one.members, *other.members]},
        _merged(one.each, other.each) if one.each or other.each else None,
        {index: _merged(one.at.get(index), other.at.get(index)) for index in [*one.at, *other.at]},
    )
