"""JSON Pointers resolve as RFC 6901 has it."""

from __future__ import annotations

import json

import pytest

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
