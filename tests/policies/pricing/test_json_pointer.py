"""JSON Pointers resolve as RFC 6901 has it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.pricing.json_pointer import ABSENT, resolve, resolve_first

# The example document and pointers of RFC 6901, section 5.
DOCUMENT = json.loads(
    '{"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\\\j": 5, "k\\"l": 6, " ": 7, "m~n": 8}'
)


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", DOCUMENT),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
    ],
)
def test_pointers_resolve_as_the_rfc_has_it(pointer: str, value: object) -> None:
    assert resolve(DOCUMENT, pointer) == value


def test_pointer_list_takes_the_first_that_resolves() -> None:
    assert resolve_first(DOCUMENT, ["/none", "/a~1b", "/c%d"]) == 1
    assert resolve_first(DOCUMENT, ["/none", "/foo/2"]) is ABSENT
    assert resolve_first({"n": None}, ["/n", "/m"]) is None


@given(names=st.lists(st.text(alphabet=st.sampled_from("a~/01"), max_size=4), max_size=4))
def test_pointer_reaches_any_name(names: list[str]) -> None:
    document: Any = [1, 2, 3]
    for name in reversed(names):
        document = {name: document}
    pointer = "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)
    assert resolve(document, pointer) == [1, 2, 3]


@pytest.mark.parametrize(
    "pointer",
    ["/none", "/foo/2", "/foo/-", "/foo/-1", "/foo/00", "/foo/\u0660", "/foo/bar", "/m~n~2", "/foo/0/x", "/foo/0x"],
)
def test_pointer_to_nothing_is_absent(pointer: str) -> None:
    assert resolve(DOCUMENT, pointer) is ABSENT
