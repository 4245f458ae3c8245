"""Request bodies of the demo upstream: read under a limit, as JSON or as a file."""

from __future__ import annotations

import json
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

# Above the 20 MiB of the example configuration, so that the gateway refuses first.
_MAX_BODY_BYTES = 32 * 2**20


class RefusedError(Exception):
    """The request is the client's mistake; `param` is the field that is wrong, if it is one."""

    def __init__(self, message: str, param: str | None = None, *, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.status = status


async def read_document(request: Request) -> tuple[str | None, str, bytes]:
    """File name, content type and content of the first file of a form, or of the body itself."""
    content_type = _media_type(request.headers.get("content-type", ""))
    if content_type != "multipart/form-data":
        return request.headers.get("x-file-name"), content_type, await _read(request)
    async with request.form(max_files=16, max_fields=64) as form:
        upload = next((value for _, value in form.multi_items() if isinstance(value, UploadFile)), None)
        if upload is None:
            raise RefusedError("The form holds no file.", "file")
        content = await upload.read(_MAX_BODY_BYTES + 1)
        _check_size(len(content))
        return upload.filename or None, _media_type(upload.content_type or ""), content


async def read_json(request: Request) -> Any:
    try:
        body = json.loads(await _read(request))
        json.dumps(body, ensure_ascii=False).encode()  # halves of characters can be escaped, but not sent back
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"The body is not JSON: {error}.") from error
    return body


async def _read(request: Request) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        _check_size(len(content))
    return bytes(content)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _check_size(size_bytes: int) -> None:
    if size_bytes > _MAX_BODY_BYTES:
        raise RefusedError(f"The body is larger than {_MAX_BODY_BYTES} bytes.", status=413)
