"""Observers: their result does not depend on the chunks, and no body can make them fail."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.request.uploads import (
    MAX_HEADER_BYTES,
    MAX_NAME_LENGTH,
    MAX_PART_HEADERS,
    MAX_PARTS,
    MultipartFile,
    UploadedFile,
    file_observer,
)

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


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b"form-data; name=\"f\"; filename*=UTF-8''na%C3%AFve%20.csv", "naïve .csv"),
        (b"form-data; filename=\"a.csv\"; filename*=utf-8'en'b%2Fc.csv", "c.csv"),
        (b"form-data; filename*=ISO-8859-1''na%EFve.csv", "naïve.csv"),
        (b"form-data; filename=\"a.csv\"; filename*=bogus''b.csv", "a.csv"),
        (b"form-data; filename*=UTF-8''%ff%00", "\ufffd\x00"),
        (b'form-data; filename="=?utf-8?B?bmHDr3ZlLmNzdg==?="', "naïve.csv"),
        (b'form-data; filename="=?utf-8?Q?na=C3=AFve.csv?="', "naïve.csv"),
        (b'form-data; filename="=?bogus?B?AAAA?="', "=?bogus?B?AAAA?="),
        (b'form-data; filename="=?utf-8?B?bmHDr3ZlL?="', "=?utf-8?B?bmHDr3ZlL?="),
        (b'form-data; filename="=?\xc3\xa9?Q?a?="', "=?é?Q?a?="),
        (b"form-data; filename=\"a.csv\"; filename*=undefined''b.csv", "a.csv"),
        (b"form-data; filename=\"a.csv\"; filename*=idna''b.csv", "a.csv"),
        (b"form-data; filename=\"a.csv\"; filename*=punycode''%ff", "a.csv"),
        (b'form-data; filename="na\xc3\xafve.csv"', "naïve.csv"),
        (b'form-data; filename="na\xefve.csv"', "na\ufffdve.csv"),
    ],
)
def test_file_name_is_read_in_each_form_that_clients_write(disposition: bytes, name: str) -> None:
    form = file_observer(b"multipart/form-data; boundary=b", b"", b"")
    form.feed(b"--b\r\nContent-Disposition: " + disposition + b"\r\n\r\nhello\r\n--b--\r\n")
    assert form.file().name == name
    assert form.file().size_bytes == 5
    whole = file_observer(b"text/csv", disposition, b"")
    assert whole.file().name == name


@pytest.mark.parametrize(
    "bomb",
    [
        b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n' * (MAX_PARTS + 1),
        b"--b\r\n" + b"a: b\r\n" * (MAX_PART_HEADERS + 1),
        b"--b\r\na: " + b"x" * (MAX_HEADER_BYTES + 1),
        b"--b\r\n" + b"x" * (MAX_HEADER_BYTES + 1),
    ],
)
def test_form_of_too_many_parts_or_headers_is_read_no_further(bomb: bytes) -> None:
    file = b'--b\r\nContent-Disposition: form-data; filename="f"\r\n\r\nhello\r\n--b--\r\n'
    form = file_observer(b"multipart/form-data; boundary=b", b"", b"")
    for at in range(0, len(bomb), 1000):
        form.feed(bomb[at : at + 1000])
    form.feed(b"\r\n\r\n\r\n" + file)
    assert form.file() == UploadedFile()
    assert isinstance(form, MultipartFile)
    assert form._parser is None


def test_file_that_was_not_chosen_is_none() -> None:
    observer = file_observer(b"multipart/form-data; boundary=b", b"", b"")
    observer.feed(b'--b\r\nContent-Disposition: form-data; name="logo"; filename=""\r\n\r\n\r\n')
    observer.feed(b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.csv"\r\n\r\nhello\r\n--b--\r\n')
    assert (observer.file().name, observer.file().size_bytes) == ("a.csv", 5)
