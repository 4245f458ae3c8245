"""What is one key, what is one request, and what a repeat of it is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.idempotency import fingerprint, is_final, key_digest
from policies.model import Refusal, Refused


@pytest.mark.parametrize("field", [b"8e03978e", b"a", b"x" * 255, b"order:1/2;3,4", b"{}"])
def test_a_key_is_the_same_with_quotes_and_without(field: bytes) -> None:
    assert key_digest(field) == key_digest(b'"' + field + b'"')
    assert len(key_digest(field)) == 64


def test_escapes_of_a_string_stand_for_what_they_escape() -> None:
    assert key_digest(rb'"a\"b"') not in (key_digest(rb'"a\\b"'), key_digest(b"ab"))


TOO_LONG = (b"x" * 256, b'"' + b"x" * 256 + b'"')
SEVERAL = (b'"a", "b"', b"a, b", b"two words", b'"a";q=1')
MISSPELT = (b"", b'""', b'"open', b'in"side', b"a\xe4", b"a\tb", rb'"a\b"', b"back\\slash")


@pytest.mark.parametrize("field", TOO_LONG + SEVERAL + MISSPELT)
def test_what_is_no_key_is_refused(field: bytes) -> None:
    with pytest.raises(Refused) as caught:
        key_digest(field)
    assert caught.value.code is Refusal.BAD_REQUEST


PARTS = st.tuples(st.sampled_from(["POST", "PUT"]), *[st.binary(max_size=6) for _ in range(3)])


@given(PARTS, PARTS)
def test_requests_are_told_apart_by_any_part_of_them(one: tuple[str, bytes, bytes, bytes], other: object) -> None:
    assert isinstance(other, tuple)
    assert (fingerprint(*one) == fingerprint(*other)) is (one == other)


def upload(boundary: bytes, content: bytes = b"x", *, quote: bytes = b"") -> tuple[bytes, bytes]:
    head = b'content-disposition: form-data; name="file"; filename="a.png"'
    body = b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (boundary, head, content, boundary)
    return b"multipart/form-data; boundary=" + quote + boundary + quote, body


def test_an_upload_is_the_same_with_another_boundary() -> None:
    first = fingerprint("POST", b"/v1", *upload(b"1f3a"))
    assert fingerprint("POST", b"/v1", *upload(b"77be")) == first
    quoted = [fingerprint("POST", b"/v1", *upload(boundary, quote=b'"')) for boundary in (b"1f3a", b"7 7'b")]
    assert quoted[0] == quoted[1]
    assert fingerprint("POST", b"/v1", *upload(b"77be", b"y")) != first


@pytest.mark.parametrize("status", [200, 201, 204, 302, 400, 402, 404, 422])
def test_an_answer_that_would_come_out_the_same_is_final(status: int) -> None:
    assert is_final(status, is_complete=True, charge=0)
    assert not is_final(status, is_complete=False, charge=0)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, None])
def test_a_call_that_may_go_better_is_free_to_be_made_again(status: int | None) -> None:
    assert not is_final(status, is_complete=True, charge=0)


@given(st.sampled_from([200, 408, 500, None]), st.booleans(), st.integers(1, 9))
def test_what_was_charged_is_final(status: int | None, is_complete: bool, charge: int) -> None:
    assert is_final(status, is_complete=is_complete, charge=charge)
