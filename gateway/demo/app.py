"""The bundled upstream: endpoints that do real work for the gateway to charge for, and the AI APIs as providers do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from gateway.clock import now
from gateway.demo import chat, store
from gateway.demo.analysis import Analysis, UnreadableError, analyze_csv, analyze_text
from gateway.demo.bodies import RefusedError, read_document, read_json
from gateway.demo.chat import CHAT
from gateway.demo.descriptions import InvalidProductsError, describe, language_of, products_of
from gateway.demo.embeddings import EMBEDDINGS
from gateway.demo.exchange import Api, Call, InvalidRequestError
from gateway.demo.gemini import GEMINI
from gateway.demo.messages import MESSAGES
from gateway.demo.responses import RESPONSES

_CSV_TYPES = frozenset({"text/csv", "application/csv"})
_NO_CACHE = {"cache-control": "no-cache"}

# Each path of an AI API, and who speaks it.
APIS: Mapping[str, Api] = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSES,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/messages": MESSAGES,
    "/v1beta/models/{model}:generateContent": GEMINI,
    "/v1beta/models/{model}:streamGenerateContent": GEMINI,
    "/v1/models/{model}:generateContent": GEMINI,
    "/v1/models/{model}:streamGenerateContent": GEMINI,
}


def build(*, event_interval_seconds: float = 0.005) -> ASGIApp:
    """The demo upstream; `event_interval_seconds` lies between two pieces of a streamed answer."""

    def speaking(api: Api) -> Callable[[Request], object]:
        async def answer(request: Request) -> Response:
            return await _answer(api, request, event_interval_seconds)

        return answer

    return Starlette(
        routes=[
            Route("/v1/analyze", _analyze, methods=["POST"]),
            Route("/v1/generate", _generate, methods=["POST"]),
            Route("/healthz", _healthz),
            Mount("/store", store.build()),
            *(Route(path, speaking(api), methods=["POST"]) for path, api in APIS.items()),
        ],
        # Starlette types each handler as one of any exception, and calls it with its own.
        exception_handlers={
            HTTPException: _on_http_error,  # type: ignore[dict-item]  # see above
            RefusedError: _on_refused,  # type: ignore[dict-item]  # see above
        },
    )


async def _healthz(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _analyze(request: Request) -> Response:
    file_name, content_type, content = await read_document(request)
    if not content:
        raise RefusedError("There is nothing to analyze: the body is empty.")
    is_csv = content_type in _CSV_TYPES or (file_name or "").lower().endswith(".csv")
    compute: Callable[[bytes], Analysis] = analyze_csv if is_csv else analyze_text
    try:
        analysis = await run_in_threadpool(compute, content)
    except UnreadableError as error:
        raise RefusedError(str(error)) from error
    return JSONResponse({"file_name": file_name, **analysis.as_json()})


async def _generate(request: Request) -> Response:
    body = await read_json(request)
    try:
        products, language_code = products_of(body), language_of(body)
    except InvalidProductsError as error:
        raise RefusedError(str(error), error.param) from error
    written = [{"name": product.name, "description": describe(product, language_code)} for product in products]
    return JSONResponse({"language_code": language_code, "count": len(written), "descriptions": written})


async def _answer(api: Api, request: Request, event_interval_seconds: float) -> Response:
    """What an API replies, errors included, in its own words."""
    try:
        call = Call(
            await read_json(request),
            int(now().timestamp()),
            model=request.path_params.get("model", ""),
            is_streamed=request.url.path.endswith(":streamGenerateContent"),
            wants_events=request.query_params.get("alt") == "sse",
        )
        reply = api.reply(call)
    except InvalidRequestError as error:
        return JSONResponse(api.error(400, str(error), error.param), 400)
    except RefusedError as error:
        return JSONResponse(api.error(error.status, str(error), error.param), error.status)
    if reply.document is not None:
        return JSONResponse(reply.document)
    pieces = _spaced(reply.pieces, event_interval_seconds)
    return StreamingResponse(pieces, media_type=reply.media_type, headers=_NO_CACHE)


async def _spaced(pieces: Iterable[bytes], interval_seconds: float) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(interval_seconds)


async def _on_refused(_request: Request, error: RefusedError) -> Response:
    return JSONResponse(chat.error(error.status, str(error), error.param), error.status)


async def _on_http_error(_request: Request, error: HTTPException) -> Response:
    """Unknown paths and methods, and forms that cannot be read, in the shape of OpenAI's errors."""
    return JSONResponse(chat.error(error.status_code, error.detail, None), error.status_code, error.headers)
