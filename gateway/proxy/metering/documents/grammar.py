"""The tokens of JSON (RFC 8259) as regular expressions that match in C, many tokens at a time.

Only single characters repeat possessively: before 3.11.5 `re` misplaces the end of possessive groups
(python/cpython#106052). Repeats of groups are bounded instead, since each costs the matcher some 350 bytes.
"""

from __future__ import annotations

import re


class InvalidJsonError(ValueError):
    """The text is not JSON, is nested too deep, or has a name that its caller refuses."""


BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # section 8.1: it may be ignored
_SPACE = rb"[ \t\n\r]*+"
_ESCAPE = rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
_PLAIN = rb'[^"\\\x00-\x1f]*+'
_STRING = rb'"' + _PLAIN + rb"(?:" + _ESCAPE + _PLAIN + rb'){0,64}"'
# As many digits as `int` takes (sys.int_info.default_max_str_digits), and fractions that no client means.
_NUMBER = rb"-?(?:0|[1-9][0-9]{0,4299}+)(?:\.[0-9]{1,2000}+)?(?:[eE][+-]?[0-9]{1,20}+)?"
_SCALAR = rb"(?:" + _NUMBER + rb"|" + _STRING + rb"|true|false|null)"
_END_OF_ITEM = _SPACE + rb"(?:,|(?=[\]}]))"


def _containing(value: bytes) -> bytes:
    """A scalar, or an array or object of up to some values."""
    item = _SPACE + value + _SPACE
    member = _SPACE + _STRING + _SPACE + rb":" + item
    array = rb"\[(?:" + item + rb"(?:," + item + rb"){0,60})?" + _SPACE + rb"\]"
    members = rb"\{(?:" + member + rb"(?:," + member + rb"){0,60})?" + _SPACE + rb"\}"
    return rb"(?>" + _SCALAR + rb"|" + array + rb"|" + members + rb")"


_VALUE = _containing(_containing(_SCALAR))
RUN_DEPTH = 2  # how deep the values of a run are nested

_QUOTE = b'"'[0]

SPACE = re.compile(_SPACE)
STRING = re.compile(_STRING)
NAME = re.compile(rb'"' + _PLAIN + rb"(?:" + _ESCAPE + _PLAIN + rb'){0,700}"')
SCALAR = re.compile(rb"(" + _NUMBER + rb"|true|false|null)(?=[ \t\n\r,\]}])")
SCALAR_BEGUN = re.compile(rb"[-+.0-9eE]++|t(?:r(?:ue?)?)?|f(?:a(?:l(?:se?)?)?)?|n(?:u(?:ll?)?)?")
ITEM = re.compile(_SPACE + _VALUE + _END_OF_ITEM)
ITEMS = re.compile(rb"(?:" + _SPACE + _VALUE + _END_OF_ITEM + rb"){0,400}")
MEMBERS = re.compile(rb"(?:" + _SPACE + _STRING + _SPACE + rb":" + _SPACE + _VALUE + _END_OF_ITEM + rb"){0,400}")
STRING_PART = re.compile(_PLAIN + rb"(?:" + _ESCAPE + _PLAIN + rb"){0,400}")
ESCAPE_BEGUN = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?")
HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
# Of the escapes, what stands for one character.
_PAIR = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_CHARACTER = re.compile(_PAIR + rb"|\\u[0-9a-fA-F]{4}|\\.", re.DOTALL)
_CONTINUATION = bytes(range(0x80, 0xC0))  # RFC 3629: every character has one byte that is none of these

# A letter, digit or underscore written as an escape: nobody does so, but a member's name may hide behind it.
ESCAPED_NAME = re.compile(rb"\\u00[3-7]")


def length_of(part: bytes) -> int:
    """How many characters a part of a string has, cut neither within an escape nor within a surrogate pair."""
    if b"\\" in part:
        part = _CHARACTER.sub(b"x", part)
    return len(part.translate(None, _CONTINUATION))


def before_half_pair(data: bytes, position: int, end: int) -> int:
    """`end`, or before a high surrogate there: its other half may still come."""
    is_at_quote = end < len(data) and data[end] == _QUOTE
    if is_at_quote or not HIGH_SURROGATE.fullmatch(data, max(position, end - 6), end):
        return end
    before = data[position : end - 6]
    is_escaped = (len(before) - len(before.rstrip(b"\\"))) % 2
    return end if is_escaped else end - 6


def string_part_end(data: bytes, position: int) -> int:
    """Where the readable part of a string ends: at its quote, or before an escape that is cut off."""
    part_end = end(STRING_PART.match(data, position))
    is_stuck = part_end == position < len(data) and data[position] != _QUOTE
    if is_stuck and end(ESCAPE_BEGUN.match(data, position)) != len(data):
        raise InvalidJsonError("a string has a control character or a broken escape")
    return part_end


def items_in(run: bytes) -> int:
    """How many items a run has. The bracket that ends the last one is not part of the run."""
    return sum(1 for _ in ITEM.finditer(run if run.endswith(b",") else run + b"]"))


def end(match: re.Match[bytes] | None) -> int:
    return match.end() if match else -1
