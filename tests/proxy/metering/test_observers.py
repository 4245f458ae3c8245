"""Observers: their result does not depend on the chunks, and no body can make them fail."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable
from decimal import Decimal
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.metering import observers
from gateway.proxy.metering.observers import EventUnits, JsonUnits, UploadedFile, file_observer, observe_units
from policies.pricing.price import Price
from policies.pricing.units import MAX_COUNT, Count, PriceUnit

PRICE = Price(Decimal(1), unit=PriceUnit.TOKEN, pointers=("/usage/total_tokens",))
_cuts = st.lists(st.integers(0, 3000), max_size=12)
_encodings: dict[bytes, Callable[[bytes], bytes]] = {b"": bytes, b"gzip": gzip.compress, b"deflate": zlib.compress}


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(min(place, len(data)) for place in at)})
    return [data[start:end] for start, end in pairwise(places)]


def units(content_type: bytes, chunks: Iterable[bytes], encoding: bytes = b"") -> Count | None:
    observer = observe_units(PRICE, content_type, encoding)
    assert observer is not None
    for chunk in chunks:
        observer.feed(chunk)
    return observer.units()


_answers = st.one_of(
    st.fixed_dictionaries({"usage": st.fixed_dictionaries({"total_tokens": st.integers(0, MAX_COUNT)})}),
    st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), st.text(max_size=20)), max_size=5),
)


@given(_answers, _cuts, st.sampled_from(sorted(_encodings)))
def test_json_is_read_in_any_chunks_and_encoding(answer: dict[str, object], at: list[int], encoding: bytes) -> None:
    usage = answer.get("usage")
    expected = usage.get("total_tokens") if isinstance(usage, dict) else None
    body = _encodings[encoding](json.dumps(answer).encode())
    assert units(b"application/json; charset=utf-8", cut(body, at), encoding) == expected


_ends = st.sampled_from(["\n", "\r\n"])
_events = st.lists(
    st.one_of(
        st.integers(0, 10**6).map(lambda count: f'data: {{"usage": {{"total_tokens": {count}}}}}'),
        st.integers(0, 10**6).map(lambda count: f'data:{{"usage":\ndata: {{"total_tokens": {count}}}}}'),
        st.sampled_from([": ping", "event: x", "id: 7", "data: [DONE]", 'data: {"usage": null}', "data", "retry: 1"]),
    ),
    max_size=8,
)


@given(_events, _ends, _cuts, st.sampled_from(sorted(_encodings)), st.booleans())
def test_events_are_read_in_any_chunks(
    events: list[str], end: str, at: list[int], encoding: bytes, is_ended: bool
) -> None:
    counts = [int("".join(filter(str.isdigit, event))) for event in events if "total_tokens" in event]
    text = "\n\n".join(events) + ("\n\n" if is_ended else "")
    body = _encodings[encoding](text.replace("\n", end).encode())
    assert units(b"text/event-stream", cut(body, at), encoding) == (counts[-1] if counts else None)


@given(st.binary(max_size=2000), _cuts, st.sampled_from(sorted(_encodings)))
def test_garbage_has_no_units_and_is_harmless(rubbish: bytes, at: list[int], encoding: bytes) -> None:
    for kind in (b"application/json", b"text/event-stream"):
        found = units(kind, cut(rubbish, at), encoding)
        assert found is None or 0 <= found <= MAX_COUNT


@pytest.mark.parametrize(
    ("content_type", "encoding"), [(b"text/html", b""), (b"", b""), (b"application/json", b"br"), (b"image/png", b"")]
)
def test_unreadable_format_has_no_observer(content_type: bytes, encoding: bytes) -> None:
    assert observe_units(PRICE, content_type, encoding) is None


def test_pointer_with_escapes_finds_its_member_in_events() -> None:
    price = Price(Decimal(1), unit=PriceUnit.TOKEN, pointers=("/usage/in~1out",))
    observer = EventUnits(price)
    observer.feed(b'data: {"usage": {"in/out": 9}}\n\n')
    assert observer.units() == 9


def test_json_beyond_the_limit_is_not_buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "MAX_JSON_BYTES", 100)
    observer = JsonUnits(PRICE)
    observer.feed(b'{"usage": {"total_tokens": 1}, "x": "')
    for _ in range(10):
        observer.feed(b"x" * 50)
    observer.feed(b'"}')
    assert observer.units() is None
    assert sum(map(len, observer._chunks)) == 0


@pytest.mark.parametrize("line", [b"data: 12345\n", b"data: 12345", b"x" * 50])
def test_event_that_never_ends_is_not_buffered(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "MAX_EVENT_BYTES", 1000)
    observer = EventUnits(PRICE)
    for _ in range(1000):
        observer.feed(line)
    assert len(observer._rest) + sum(map(len, observer._data)) <= 2000
    observer.feed(b'\n\ndata: {"usage": {"total_tokens": 5}}\n\n')
    assert observer.units() == 5


def test_compression_bomb_costs_no_more_than_an_honest_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "MAX_JSON_BYTES", 1000)
    bomb = gzip.compress(b" " * 10_000_000)
    observer = observe_units(PRICE, b"application/json", b"gzip")
    assert isinstance(observer, observers.InflatingObserver)
    fed = []
    monkeypatch.setattr(observer._observer, "feed", lambda chunk: fed.append(len(chunk)))
    for chunk in cut(bomb, list(range(0, len(bomb), 100))):
        observer.feed(chunk)
    assert max(fed) <= 1000


_letters = st.characters(min_codepoint=0x20, blacklist_characters='"\\/\x7f', blacklist_categories=["Cs"])
_names = st.text(_letters, min_size=1, max_size=20).filter(lambda name: name == name.strip())


@given(_names, st.binary(max_size=500), st.booleans(), _cuts)
def test_first_file_of_a_form_is_found_in_any_chunks(
    name: str, content: bytes, has_field_before: bool, at: list[int]
) -> None:
    if b"--edge" in content:
        return
    before = b'--edge\r\nContent-Disposition: form-data; name="n"\r\n\r\nvalue\r\n' if has_field_before else b""
    head = f'--edge\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\nContent-Type: text/csv\r\n\r\n'
    after = b'\r\n--edge\r\nContent-Disposition: form-data; name="g"; filename="b"\r\n\r\nsecond\r\n--edge--\r\n'
    observer = file_observer(b'multipart/form-data; boundary="edge"', b"", b"")
    for chunk in cut(before + head.encode() + content + after, at):
        observer.feed(chunk)
    assert observer.file() == UploadedFile(name, len(content), sha256(content).hexdigest(), "text/csv")


@given(st.binary(max_size=1000), _cuts)
def test_invalid_form_is_harmless(rubbish: bytes, at: list[int]) -> None:
    observer = file_observer(b"multipart/form-data; boundary=edge", b"", b"")
    for chunk in cut(b"--edge\r\n" + rubbish, at):
        observer.feed(chunk)
    assert (observer.file().size_bytes or 0) <= len(rubbish)


def test_incomplete_file_is_not_recorded() -> None:
    observer = file_observer(b"multipart/form-data; boundary=edge", b"", b"")
    observer.feed(b'--edge\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nhalf of')
    assert observer.file() == UploadedFile()


@given(st.binary(max_size=1000), _cuts)
def test_body_that_is_no_form_is_the_file_in_any_chunks(body: bytes, at: list[int]) -> None:
    observer = file_observer(b"text/csv", b'attachment; filename="../../etc/passwd"', b"ignored")
    for chunk in cut(body, at):
        observer.feed(chunk)
    assert observer.file() == UploadedFile("passwd", len(body), sha256(body).hexdigest(), "text/csv")


@pytest.mark.parametrize(
    ("content_type", "disposition", "file_name"),
    [
        (b"multipart/form-data", b"", b""),
        (b"multipart/form-data; boundary=", b"", b""),
        (b"multipart/form-data; boundary=" + b"x" * 500, b"", b""),
        (b"\xff;;;=", b";;;", b"\x00"),
        (b"text/csv", b'attachment; filename="' + b"\xff" * 300 + b'"', b""),
        (b"", b"", b"\xff/\\.."),
    ],
)
def test_invalid_fields_are_harmless(content_type: bytes, disposition: bytes, file_name: bytes) -> None:
    observer = file_observer(content_type, disposition, file_name)
    observer.feed(b"x")
    assert len(observer.file().name or "") <= observers.MAX_NAME_LENGTH
