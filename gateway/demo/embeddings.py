"""OpenAI embeddings: a vector for each text, the same for the same text, in numbers or base64 as the client asks.

The shapes are those of https://platform.openai.com/docs/api-reference/embeddings.
"""

from __future__ import annotations

import base64
import hashlib
import struct

from gateway.demo.chat import error
from gateway.demo.exchange import Api, Call, InvalidRequestError, Reply, model_of, object_of
from gateway.demo.model import count

DIMENSIONS = 8


def reply(call: Call) -> Reply:
    fields = object_of(call.body)
    model, texts = model_of(fields), _texts(fields.get("input"))
    is_packed = fields.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if is_packed else vector}
        for index, vector in enumerate(map(vector_of, texts))
    ]
    tokens = count(texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Reply({"object": "list", "data": data, "model": model, "usage": usage})


def vector_of(text: str) -> list[float]:
    """Numbers from -1 to 1 that single precision holds exactly."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    return [octet / 128 - 1 for octet in digest[:DIMENSIONS]]


EMBEDDINGS = Api(reply, error)


def _texts(given: object) -> list[str]:
    listed = given if isinstance(given, list) else [given]
    texts = [text for text in listed if isinstance(text, str) and text]
    if not texts or len(texts) != len(listed):
        raise InvalidRequestError("input must be a text or a list of texts, none of them empty.", "input")
    return texts


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
