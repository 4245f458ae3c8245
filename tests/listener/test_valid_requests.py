"""Whatever a client says that is HTTP/1.1 reaches the application as it was said, however its bytes are cut."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.listener.request_fields import _SINGLETONS
from tests.listener.listening import Listener, Recorder, Seen, connected, listening

TOKEN = "!#$%&'*+-.^`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
FRAMING = {"connection", "upgrade", "transfer-encoding", "content-length", "expect", "host"}
REPEATABLE = {"accept", "cookie", "x-custom"}

names = st.one_of(
    st.sampled_from(sorted(REPEATABLE | {"Accept", "X-Custom"})),
    st.text(TOKEN, min_size=1, max_size=12).filter(
        lambda name: name.lower() not in FRAMING and name.lower().encode() not in _SINGLETONS
    ),
)
visible = st.binary(max_size=40).map(
    lambda value: bytes(octet for octet in value if (octet >= 0x20 and octet != 0x7F) or octet == 9)
)
padding = st.sampled_from([b"", b" ", b"\t", b"  \t "])
targets = st.binary(max_size=30).map(lambda value: b"/" + bytes(0x24 + octet % 0x5B for octet in value))
bodies = st.binary(max_size=300)


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """A body in chunks, with zeros, extensions and trailers where they please."""
    parts, at = [], 0
    while at < len(body):
        size = draw(st.integers(1, len(body) - at))
        zeros = b"0" * draw(st.integers(0, 3))
        written = draw(st.sampled_from([b"%x", b"%X"])) % size
        extension = draw(st.sampled_from([b"", b";a", b';a="b;c"', b" ;a=1;b"]))
        parts.append(zeros + written + extension + b"\r\n" + body[at : at + size] + b"\r\n")
        at += size
    trailers = draw(st.sampled_from([b"", b"X-Api-Key: evil\r\n", b"a: 1\r\nb:\r\n"]))
    return b"".join(parts) + b"0\r\n" + trailers + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, Seen]:
    method = draw(st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]))
    target = draw(targets)
    path, _, query = target.partition(b"?")
    fields = [
        (name.encode(), value.strip(b" \t")) for name, value in draw(st.lists(st.tuples(names, visible), max_size=8))
    ]
    lines = [name + b":" + draw(padding) + value + draw(padding) for name, value in fields]
    body = draw(st.one_of(st.none(), bodies))
    raw = b""
    if body is not None and draw(st.booleans()):
        raw = draw(chunked(body))
        fields.append((b"Transfer-Encoding", b"chunked"))
    elif body is not None:
        raw = body
        fields.append((b"content-LENGTH", b"%d" % len(body)))
    lines += [b": ".join(fields[-1])] if body is not None else []
    head = b"\r\n".join((method.encode() + b" " + target + b" HTTP/1.1", b"Host: example.org", *lines, b"", b""))
    plain = [(name.lower(), value) for name, value in fields if not re.search(rb"[^A-Za-z0-9-]", name)]
    seen = [(b"host", b"example.org"), *plain]
    return head + raw, Seen(method, path, query, body or b"", tuple(seen))


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
async def listener(recorder: Recorder) -> AsyncIterator[Listener]:
    async with listening(recorder) as running:
        yield running


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(group=st.lists(requests(), min_size=1, max_size=5), data=st.data())
async def test_valid_request_reaches_the_application_as_it_was_sent(
    group: list[tuple[bytes, Seen]], data: st.DataObject, listener: Listener, recorder: Recorder
) -> None:
    recorder.seen.clear()
    wire = b"".join(raw for raw, _ in group)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(wire)), max_size=12)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True) if start < end]
    async with connected(listener) as client:
        await client.send(*pieces)
        assert [(await client.final_answer()).status for _ in group] == [200] * len(group)
    assert recorder.seen == [seen for _, seen in group]
    assert [seen.headers for seen in recorder.seen] == [seen.headers for _, seen in group]
