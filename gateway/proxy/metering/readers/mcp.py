"""The Model Context Protocol over streamable HTTP: JSON-RPC messages, of which only calls of tools are work.

A tool stands where other APIs have a model. Batches are refused: the protocol has had none since 2025-06-18, and
calls in them would have no one price.
"""

from __future__ import annotations

from gateway.proxy.metering.documents.selection import Fields, select
from gateway.proxy.metering.readers import fields as read
from gateway.proxy.metering.readers.reader import Reader
from gateway.proxy.metering.readers.reading import Counts, RequestReading, Statement
from gateway.proxy.metering.readers.response import ResponseFormat
from gateway.proxy.metering.strict_json import invalid_body, read_fields
from policies.usage.counts import Usage

_REQUEST = select("method", "params/name")
_RESPONSE = select("method", "error", "result/isError", spans=("result",))


def _read_request(_: str, __: bytes, body: bytes) -> RequestReading:
    if not body:
        return RequestReading(is_free=True)
    fields = read_fields(body, _REQUEST)
    if read.text(fields, "method") != "tools/call":
        return RequestReading(is_free=True)
    tool = read.text(fields, "params/name")
    if tool is None:
        raise invalid_body("A call must name its tool.")
    return RequestReading(tool, max_output=0)


def _state(fields: Fields, _: bytes) -> Statement:
    if "method" in fields:  # a request or notification of the server, on the same stream
        return Statement()
    is_error = bool(fields.get("error")) or fields.get("result/isError") is True
    return Statement(is_error=is_error, is_complete=True if is_error or "result" in fields else None)


def _normalize(_: Counts) -> Usage | None:
    return Usage()  # calls are priced by the tool: nothing is left to report


MCP = Reader(
    "mcp",
    _read_request,
    ResponseFormat(_RESPONSE, _state, _normalize, lambda _: True, lambda _: 0),
)
