"""A head is read the same whatever head came before it on its connection."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.listener import request_head
from gateway.listener.error_response import RequestError
from gateway.listener.request_head import RequestHead

LINES = (
    *(b"Host: a", b"host: b", b"Accept: */*", b"X-Under_score: 1", b"Connection: close", b"Connection: x-request-id"),
    *(b"Content-Length: 5", b"content-length: 7", b"Content-Length: +7", b"Content-Length:", b"Content-Length : 7"),
    *(b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"X-Request-Id: one", b"X-REQUEST-ID:  two \t"),
    *(
        b"X-Request-Id: t\x00o",
        b"X-Request-Id",
        b"X-Api-Key",
        b"X-Forwarded-For: 10.0.0.1",
        b"X-Forwarded-For: 10.0.0.2, 10.0.0.3",
    ),
    *(
        b"Authorization: Bearer one",
        b"authorization: Bearer two",
        b"X-Api-Key: one",
        b"x-api-key:",
        b"X-Api-Key: t\x00o",
    ),
    *(b"traceparent: 00-a-b-01", b"traceparent: 00-c-d-01", b"tracestate: x=1", b"tracestate: y=2", b" folded: x"),
)
REQUEST_LINES = (
    *(b"GET /a HTTP/1.1", b"POST /b?c=d HTTP/1.1", b"POST /b HTTP/1.0", b"GET http://c/a HTTP/1.1", b"GET ?a HTTP/1.1"),
    *(b"GET http://c?a HTTP/1.1", b"\r\nGET /a HTTP/1.1"),
)


def head(line: bytes, fields: list[bytes]) -> bytes:
    return b"\r\n".join((line, *fields)) + b"\r\n\r\n"


def name_of(line: bytes) -> bytes:
    return line.partition(b":")[0].strip().lower()


def alike(line: bytes) -> list[bytes]:
    """The lines of the same name."""
    return [each for each in LINES if name_of(each) == name_of(line)]


@st.composite
def chains(draw: st.DrawFn) -> list[bytes]:
    """Heads of which most differ from the one before them in a line or two."""
    others = st.sampled_from([each for each in LINES if not each.lower().startswith((b"host", b"transfer", b" "))])
    fields = [b"Host: a", *draw(st.lists(others, max_size=4, unique_by=name_of))]
    chain = [head(draw(st.sampled_from(REQUEST_LINES)), fields)]
    for _ in range(draw(st.integers(1, 5))):
        for _ in range(draw(st.integers(0, 2))):
            place = draw(st.integers(0, len(fields) - 1))
            fields[place] = draw(st.sampled_from(alike(fields[place]) if draw(st.booleans()) else LINES))
        chain.append(head(draw(st.sampled_from(REQUEST_LINES)), fields))
    return chain


def read(written: bytes, last: RequestHead | None = None) -> RequestHead | tuple[str, str]:
    try:
        return request_head.parse(written, last)
    except RequestError as error:
        return error.code, str(error)


def what_it_says(found: RequestHead | tuple[str, str]) -> object:
    return found[:11] if isinstance(found, RequestHead) else found


@settings(max_examples=1_000)
@given(chains())
@example([head(b"POST /a HTTP/1.1", [b"Host: a", each]) for each in (b"Content-Length: 5", b"content-length: 7")])
@example([head(b"POST /a HTTP/1.1", [b"Host: a", each]) for each in (b"X-Request-Id: one", b"X-Request-Id")])
def test_a_head_is_read_as_if_no_other_came_before_it(chain: list[bytes]) -> None:
    last: RequestHead | None = None
    for written in chain:
        found = read(written, last)
        assert what_it_says(found) == what_it_says(read(written))
        if not isinstance(found, RequestHead):
            break
        for named in (found.varying_fields, found.key_fields):
            assert named == {name: value for name, value in found.headers if name in named}
        last = found if found.block else None


def test_only_the_fields_that_may_vary_keep_the_application_slot() -> None:
    def slots(*fields: tuple[bytes, ...]) -> list[bool]:
        last, found = None, []
        for each in fields:
            last = request_head.parse(head(b"POST /a HTTP/1.1", [b"Host: a", *each]), last)
            found.append(last.application_slot)
        return [first is second for first, second in pairwise(found)]

    one, two = b"X-Request-Id: one", b"x-request-id: two"
    assert slots((one,), (two,), (b"X-Other: two",)) == [True, False]
    assert slots((b"Content-Length: 5", one), (b"Content-Length: 7", two)) == [True]
    twice = b"X-Forwarded-For: 10.0.0.1", b"X-Forwarded-For: 10.0.0.2"
    assert slots(twice, twice[::-1]) == [False]
    assert slots((one,), (one, b"Accept: x")) == [False]
    assert slots((one, b"Authorization: Bearer one"), (two, b"Authorization: Bearer two")) == [True]
    assert slots((b"Authorization: Bearer one",), (b"X-Api-Key: one",)) == [False]
