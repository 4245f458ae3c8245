"""A head that cannot become one is refused at once, wherever the network has cut it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.listener.error_response import RequestError
from gateway.listener.request_head import check_unfinished

pytestmark = pytest.mark.unit
# What no head can hold: control characters, LF without CR, CR without LF.
_IMPOSSIBLE = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?=[^\n])")
_PIECES = st.lists(
    st.sampled_from((b"a", b"a: b", b"\r\n", b"\r", b"\n", b"\t", b"\xff", b"\x00", b"\x7f", b"\x1f", b" ")), max_size=8
).map(b"".join)


@given(_PIECES, st.lists(st.integers(0, 60), max_size=4))
def test_head_is_refused_once_it_holds_what_none_can(rest: bytes, cuts: list[int]) -> None:
    head = b"GET / HTTP/1.1\r\n" + rest
    seen = 0
    for end in sorted({min(cut, len(head)) for cut in cuts} | {len(head)} - {0}):
        if _IMPOSSIBLE.search(head[:end]):
            with pytest.raises(RequestError):
                check_unfinished(head[:end], seen, 1000)
            return
        check_unfinished(head[:end], seen, 1000)
        seen = end


def test_head_that_begins_with_a_line_feed_is_refused() -> None:
    with pytest.raises(RequestError):
        check_unfinished(b"\nGET / HTTP/1.1\r\n", 0, 1000)
