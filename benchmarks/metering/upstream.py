"""An upstream that answers each call in the wire form that it asks for."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Callable, Mapping

import brotli  # type: ignore[import-untyped] # it ships no types

from benchmarks.metering.wire_forms import MEBIBYTE, SSE, TEXT, WIRE_FORMS, WireForm

_CASE = re.compile(rb"case-(\d+)")
_LEFT_SECONDS = 0.5  # from the begin of a response to its rest, in which its client leaves
_ENCODE: Mapping[str, Callable[[bytes], bytes]] = {"br": brotli.compress, "gzip": gzip.compress, "identity": bytes}


_MODELS = {
    "openai": "gpt-4o",
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-2.5-flash",
    "ollama": "llama3",
    "bedrock": "amazon.nova-lite-v1:0",
}


def request(number: int) -> tuple[str, bytes]:
    """Path and body of a call. What it says names the wire form to the upstream, whatever stands between."""
    form = WIRE_FORMS[number]
    model = "text-embedding-3-small" if form.path.endswith("embeddings") else _MODELS[form.api]
    body = form.body if "MODEL" in form.path else {"model": model, **form.body}
    text = json.dumps(body).replace("Hello", f"Hello case-{number}")
    return form.path.replace("MODEL", model.replace(":", "%3A")), text.encode()


async def serve() -> asyncio.Server:
    """An upstream that knows by what the body says which wire form it is asked for."""
    return await asyncio.start_server(_answer, "127.0.0.1", 0, limit=64 * MEBIBYTE)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await _body(reader, head.lower())
            named = _CASE.search(body)
            form = _answering(WIRE_FORMS[int(named[1])], body) if named else None
            response = _NOT_FOUND if form is None else _response_to(form, head.lower(), body)
            if form is not None and form.leaves:
                begun = response.index(TEXT[-9:].encode())
                writer.write(response[:begun])
                await asyncio.sleep(_LEFT_SECONDS)
                response = response[begun:]
            writer.write(response)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def _answering(form: WireForm, body: bytes) -> WireForm:
    """The form that the body asks for: a gateway may ask for one document where its client asked for a stream."""
    if not form.body.get("stream") or json.loads(body).get("stream"):
        return form
    return next(each for each in WIRE_FORMS if each.path == form.path)


_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if b"transfer-encoding: chunked" in head:
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return body
    length = re.search(rb"content-length: (\d+)", head)
    return await reader.readexactly(int(length[1])) if length else b""


def _response_to(form: WireForm, head: bytes, body: bytes) -> bytes:
    """Encoded only where the request allows it."""
    allowed = re.search(rb"accept-encoding: ([^\r]*)", head)
    encoding = form.encoding if allowed and form.encoding.encode() in allowed[1] else "identity"
    content = _ENCODE[encoding](form.answer(body))
    named = f"content-encoding: {encoding}\r\n" if encoding != "identity" else ""
    fields = f"content-type: {form.content_type}\r\n{named}"
    if form.content_type == SSE:
        pieces = [content[start : start + 700] for start in range(0, len(content), 700)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        return f"HTTP/1.1 200 OK\r\n{fields}transfer-encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"
    return f"HTTP/1.1 200 OK\r\n{fields}content-length: {len(content)}\r\n\r\n".encode() + content
