"""Observers: their result does not depend on the chunks, and no body can make them fail."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.metering.observers import MAX_NAME_LENGTH, UploadedFile, file_observer

_cuts = st.lists(st.integers(0, 3000), max_size=12)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(min(place, len(data)) for place in at)})
    return [data[start:end] for start, end in pairwise(places)]


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
    assert len(observer.file().name or "") <= MAX_NAME_LENGTH
