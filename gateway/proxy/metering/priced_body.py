"""What a request's body asks for, read where the price of the call needs to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from gateway.proxy.metering.decoding import PIECE_BYTES, DecodingError, open_decoder
from gateway.proxy.metering.documents.selection import Fields, Leaf, Selection, select_paths
from gateway.proxy.metering.framing import media_type
from gateway.proxy.metering.readers import READERS
from gateway.proxy.metering.strict_json import invalid_body, read_fields
from policies.access.authorization import check_size
from policies.model import Refusal, Refused
from policies.pricing import prices
from policies.pricing.json_pointer import ABSENT, parts
from policies.pricing.price import Price
from policies.pricing.price_list import PriceList
from policies.pricing.quotes import ModelRequest
from policies.pricing.units import PriceUnit

RECORDED = ("language_code", "category", "batch_id")  # top-level texts that usage rows keep
_RECORDED_NAMES = tuple(f'"{name}"'.encode() for name in RECORDED)  # few bodies of AI calls have any
_REQUEST_CODINGS = frozenset({b"gzip", b"x-gzip", b"deflate"})


class Asked(NamedTuple):
    """What a body asks for: the units that a plain price counts, or the model of a price list.

    `texts` are the RECORDED members of a JSON body. `needs_usage_option` says that the stream reports its usage only if
    the gateway asks for it. `decoded` is the body without its content coding, None where it has none.
    """

    units: int | None = None
    model_request: ModelRequest = ModelRequest(None, None, 0)
    texts: Mapping[str, str] = MappingProxyType({})
    needs_usage_option: bool = False
    decoded: bytes | None = None


NOTHING_ASKED = Asked()


def read_asked(
    price: Price | PriceList,
    content: bytes,
    *,
    path: str,
    content_type: bytes,
    content_encoding: bytes = b"",
    limit: int,
) -> Asked:
    """What a body asks of a price. Raises Refused for one that is not what it must be.

    `limit` bounds the decoded body in bytes.
    """
    decoded = _decoded(content, content_encoding, limit) if content_encoding else None
    body = content if decoded is None else decoded
    if isinstance(price, Price):
        return _counted(price, body)._replace(decoded=decoded)
    reading = READERS[price.reader].read_request(path, content_type, body)
    if reading.is_deferred and price.unit is not PriceUnit.CALL and not price.is_free:
        raise invalid_body(
            "This would be answered before its usage is known, by which it is priced; send it as one call."
        )
    model, max_output, answers, others = reading.model, reading.max_output, reading.answers, reading.alternatives
    request = ModelRequest(model, max_output, len(body), reading.is_free, answers, others, reading.is_retrieval)
    texts = NOTHING_ASKED.texts
    if any(name in body for name in _RECORDED_NAMES) and media_type(content_type) != b"multipart/form-data":
        texts = _texts(read_fields(body, _selection((), PriceUnit.CALL)))
    return Asked(None, request, texts, reading.needs_usage_option, decoded)


def _counted(price: Price, body: bytes) -> Asked:
    fields = read_fields(body, _selection(price.pointers, price.unit))
    found = next((fields[pointer] for pointer in price.pointers if pointer in fields), ABSENT)
    return Asked(units=prices.units_in_request(price, found), texts=_texts(fields))


@lru_cache(maxsize=1024)
def _selection(pointers: tuple[str, ...], unit: PriceUnit) -> Selection:
    leaf = Leaf.SIZE if unit is PriceUnit.CHARACTER else Leaf.COUNT
    counted = [(parts(pointer), leaf, pointer) for pointer in pointers]
    return select_paths([*counted, *(((name,), Leaf.VALUE, name) for name in RECORDED)])


def _texts(fields: Fields) -> Mapping[str, str]:
    return {name: value for name in RECORDED if isinstance(value := fields.get(name), str)}


def _decoded(content: bytes, content_encoding: bytes, limit: int) -> bytes | None:
    """The body without its coding, None if it has none. Raises Refused for a coding that is not read, or a bomb.

    It is measured first, so that a bomb takes no more memory than a piece of it.
    """
    codings = {name.strip().lower() for name in content_encoding.split(b",")} - {b"", b"identity"}
    if not codings <= _REQUEST_CODINGS:
        named = content_encoding.decode("latin-1")[:40]
        raise Refused(Refusal.UNSUPPORTED_ENCODING, f"The body is encoded as {named!r}; gzip and deflate are read.")
    if not codings:
        return None
    try:
        size = 0
        for piece in _pieces(content, content_encoding):
            size += len(piece)
            check_size(size, limit)
        return b"".join(_pieces(content, content_encoding))
    except DecodingError:
        raise Refused(Refusal.INVALID_BODY, "The body is not in the encoding that Content-Encoding names.") from None


def _pieces(content: bytes, content_encoding: bytes) -> Iterator[bytes]:
    if (decoder := open_decoder(content_encoding)) is not None:
        for start in range(0, len(content), PIECE_BYTES):
            yield from decoder.decode(content[start : start + PIECE_BYTES])
