"""What a body asks of a price: the same whatever its size and coding, and refused where parsers would disagree."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from decimal import Decimal

import pytest

from gateway.proxy.metering.priced_body import Asked, read_asked
from policies.model import Refusal, Refused
from policies.pricing.price import Price
from policies.pricing.price_list import ModelPrice, PriceList, ReaderName
from policies.pricing.units import CountSource, PriceUnit
from policies.usage.counts import UsageClass

LIMIT = 1024 * 1024
PADDING = b" " * 70_000  # above it, a body is scanned instead of parsed
ITEMS = Price(Decimal(1), PriceUnit.ITEM, source=CountSource.REQUEST, pointers=("/items", "/products"))
TEXT = Price(Decimal(1), PriceUnit.CHARACTER, source=CountSource.REQUEST, pointers=("/input",))
MODELS = PriceList("l", ReaderName.OPENAI, {"m": ModelPrice({})})


def asked(
    price: Price | PriceList, content: bytes, encoding: bytes = b"", *, path: str = "/v1/chat/completions"
) -> Asked:
    return read_asked(
        price,
        content,
        path=path,
        content_type=b"application/json",
        content_encoding=encoding,
        limit=LIMIT,
    )


@pytest.mark.parametrize("padding", [b"", PADDING], ids=["small", "large"])
def test_units_are_counted_at_the_first_pointer_that_is_there(padding: bytes) -> None:
    assert asked(ITEMS, b'{"products":[1,[2,3],3]}' + padding).units == 3
    assert asked(ITEMS, b'{"products":[1],"items":4}' + padding).units == 4
    assert asked(TEXT, b'{"input":"h\\u00e9llo"}' + padding).units == 5


@pytest.mark.parametrize("padding", [b"", PADDING], ids=["small", "large"])
@pytest.mark.parametrize("content", [b'{"items":null}', b'{"items":null,"products":null}', b"{}"])
def test_null_is_an_option_that_is_not_set(content: bytes, padding: bytes) -> None:
    assert asked(replace(ITEMS, default=1), content + padding).units == 1
    assert asked(ITEMS, b'{"items":null,"products":[1,2]}' + padding).units == 2
    with pytest.raises(Refused, match="there is nothing"):
        asked(ITEMS, content + padding)


@pytest.mark.parametrize("padding", [b"", PADDING], ids=["small", "large"])
@pytest.mark.parametrize("content", [b'{"items":"4"}', b'{"items":{}}', b'{"items":true}', b'{"items":-1}', b"{}"])
def test_units_that_cannot_be_counted_are_refused(content: bytes, padding: bytes) -> None:
    with pytest.raises(Refused) as refused:
        asked(ITEMS, content + padding)
    assert refused.value.code is Refusal.INVALID_BODY


@pytest.mark.parametrize("padding", [b"", PADDING], ids=["small", "large"])
@pytest.mark.parametrize(
    "content",
    [
        b'{"products":[1],"products":[]}',
        b'{"products":[],"Products":[1]}',
        b'{"product\xc5\xbf":[1]}',
        b'{"products":[NaN]}',
        b'\xef\xbb\xbf{"products":[1]}',
        '{"products":[1]}'.encode("utf-16"),
        b'{"products":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b"[1]",
        b"x",
        b"",
    ],
)
def test_body_that_parsers_read_differently_is_refused(content: bytes, padding: bytes) -> None:
    with pytest.raises(Refused) as refused:
        asked(ITEMS, content + padding)
    assert refused.value.code is Refusal.INVALID_BODY


def test_texts_of_a_body_are_those_that_records_keep() -> None:
    found = asked(ITEMS, b'{"products":[],"category":"a","batch_id":7,"language_code":"de","other":"x"}')
    assert found.texts == {"category": "a", "language_code": "de"}


@pytest.mark.parametrize(("encoding", "encode"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
def test_coded_body_is_read_and_kept_for_what_is_edited(encoding: bytes, encode: object) -> None:
    assert callable(encode)
    plain = json.dumps({"model": "m", "stream": True, "max_tokens": 7, "n": 2}).encode()
    found = asked(MODELS, encode(plain), encoding)
    assert found.model_request.model == "m"
    assert (found.model_request.max_output, found.model_request.answers) == (7, 2)
    assert found.needs_usage_option
    assert found.decoded == plain


@pytest.mark.parametrize(
    ("content", "encoding", "code"),
    [
        (b"{}", b"br", Refusal.UNSUPPORTED_ENCODING),
        (b"{}", b"gzip", Refusal.INVALID_BODY),
        (gzip.compress(b" " * (LIMIT + 1)), b"gzip", Refusal.PAYLOAD_TOO_LARGE),
    ],
)
def test_body_in_another_coding_or_too_large_is_refused(content: bytes, encoding: bytes, code: Refusal) -> None:
    with pytest.raises(Refused) as refused:
        asked(ITEMS, content, encoding)
    assert refused.value.code is code


@pytest.mark.parametrize("padding", [b"", PADDING], ids=["small", "large"])
def test_texts_of_a_body_that_asks_for_a_model_are_read_too(padding: bytes) -> None:
    found = asked(MODELS, b'{"model":"m","category":"a","batch_id":7}' + padding)
    assert (found.model_request.model, found.texts) == ("m", {"category": "a"})


@pytest.mark.parametrize("unit", [PriceUnit.TOKEN, PriceUnit.USD, PriceUnit.SECOND])
def test_body_that_is_answered_before_its_usage_is_known_is_refused(unit: PriceUnit) -> None:
    content, priced = b'{"model":"m","background":true}', {"m": ModelPrice({UsageClass.INPUT: Decimal(1)})}
    with pytest.raises(Refused, match="before its usage is known") as refused:
        asked(replace(MODELS, models=priced, unit=unit), content, path="/v1/responses")
    assert refused.value.code is Refusal.INVALID_BODY
    for price in (replace(MODELS, models=priced, unit=PriceUnit.CALL), MODELS):
        assert asked(price, content, path="/v1/responses").model_request.model == "m"
