"""The bundled upstream: three endpoints that do real work for the gateway to charge for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from gateway.clock import now
from gateway.demo import chat
from gateway.demo.analysis import Analysis, UnreadableError, analyze_csv, analyze_text
from gateway.demo.chat import InvalidChatError
from gateway.demo.descriptions import InvalidProductsError, describe, language_of, products_of

# Above the 20 MiB of the example configuration, so that the gateway refuses first.
_MAX_BODY_BYTES = 32 * 2**20
_CSV_TYPES = frozenset({"text/csv", "application/csv"})


class _RefusedError(Exception):
    """The request is the client's mistake; `param` is the field that is wrong, if it is one."""

    def __init__(self, message: str, param: str | None = None, *, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.status = status


def build(*, event_interval_seconds: float = 0.005) -> ASGIApp:
    """The demo upstream; `event_interval_seconds` lies between two events of a streamed chat."""

    async def answer_chat(request: Request) -> Response:
        return await _chat(request, event_interval_seconds)

    return Starlette(
        routes=[
            Route("/v1/analyze", _analyze, methods=["POST"]),
            Route("/v1/generate", _generate, methods=["POST"]),
            Route("/v1/chat/completions", answer_chat, methods=["POST"]),
            Route("/healthz", _healthz),
        ],
        # Starlette types each handler as one of any exception, and calls it with its own.
        exception_handlers={
            HTTPException: _on_http_error,  # type: ignore[dict-item]  # see above
            _RefusedError: _on_refused,  # type: ignore[dict-item]  # see above
        },
    )


async def _healthz(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _analyze(request: Request) -> Response:
    file_name, content_type, content = await _document(request)
    if not content:
        raise _RefusedError("There is nothing to analyze: the body is empty.")
    is_csv = content_type in _CSV_TYPES or (file_name or "").lower().endswith(".csv")
    compute: Callable[[bytes], Analysis] = analyze_csv if is_csv else analyze_text
    try:
        analysis = await run_in_threadpool(compute, content)
    except UnreadableError as error:
        raise _RefusedError(str(error)) from error
    return JSONResponse({"file_name": file_name, **analysis.as_json()})


async def _generate(request: Request) -> Response:
    body = await _json(request)
    try:
        products, language_code = products_of(body), language_of(body)
    except InvalidProductsError as error:
        raise _RefusedError(str(error), error.param) from error
    written = [{"name": product.name, "description": describe(product, language_code)} for product in products]
    return JSONResponse({"language_code": language_code, "count": len(written), "descriptions": written})


async def _chat(request: Request, event_interval_seconds: float) -> Response:
    try:
        asked = chat.parse(await _json(request))
    except InvalidChatError as error:
        raise _RefusedError(str(error), error.param) from error
    completion = chat.answer(asked, created=int(now().timestamp()))
    if not asked.is_streamed:
        return JSONResponse(chat.as_json(completion))
    events = _spaced(completion, event_interval_seconds)
    return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})


async def _spaced(completion: chat.Completion, interval_seconds: float) -> AsyncIterator[bytes]:
    for event in chat.as_events(completion):
        yield event
        await asyncio.sleep(interval_seconds)


async def _document(request: Request) -> tuple[str | None, str, bytes]:
    """File name, content type and content of the first file of a form, or of the body itself."""
    content_type = _media_type(request.headers.get("content-type", ""))
    if content_type != "multipart/form-data":
        return request.headers.get("x-file-name"), content_type, await _body(request)
    async with request.form(max_files=16, max_fields=64) as form:
        upload = next((value for _, value in form.multi_items() if isinstance(value, UploadFile)), None)
        if upload is None:
            raise _RefusedError("The form holds no file.", "file")
        content = await upload.read(_MAX_BODY_BYTES + 1)
        _check_size(len(content))
        return upload.filename or None, _media_type(upload.content_type or ""), content


async def _body(request: Request) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        _check_size(len(content))
    return bytes(content)


async def _json(request: Request) -> Any:
    try:
        body = json.loads(await _body(request))
        json.dumps(body, ensure_ascii=False).encode()  # halves of characters can be escaped, but not sent back
    except (ValueError, RecursionError) as error:
        raise _RefusedError(f"The body is not JSON: {error}.") from error
    return body


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _check_size(size_bytes: int) -> None:
    if size_bytes > _MAX_BODY_BYTES:
        raise _RefusedError(f"The body is larger than {_MAX_BODY_BYTES} bytes.", status=413)


async def _on_refused(_request: Request, error: _RefusedError) -> Response:
    return _error(error.status, str(error), error.param)


async def _on_http_error(_request: Request, error: HTTPException) -> Response:
    """Unknown paths and methods, and forms that cannot be read."""
    return _error(error.status_code, error.detail, None, headers=error.headers)


def _error(status: int, message: str, param: str | None, *, headers: Mapping[str, str] | None = None) -> Response:
    """In the shape of OpenAI's errors, which their clients can read."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return JSONResponse({"error": error}, status, headers)
