"""`GET /problems/{code}`: what the `type` of a problem document leads to, on both listeners."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from gateway.api.page_policy import policy_of
from gateway.http import problem_reference
from gateway.http.problem_types import PROBLEM_TYPES

router = APIRouter(include_in_schema=False)

PREFIX = "/problems"
_HTML_FIELDS = {"content-security-policy": policy_of(problem_reference.index_html()), "vary": "accept"}


@router.get(PREFIX)
async def list_problem_types(request: Request) -> Response:
    """All problem types: HTML for a browser, JSON otherwise."""
    if _is_browser(request):
        return HTMLResponse(problem_reference.index_html(), headers=_HTML_FIELDS)
    return _json(problem_reference.index_json())


@router.get(PREFIX + "/{code}")
async def explain_problem_type(code: str, request: Request) -> Response:
    """One problem type: HTML for a browser, JSON otherwise; 404 for a code that the gateway never answers with."""
    if code not in PROBLEM_TYPES:
        raise HTTPException(404)
    if _is_browser(request):
        return HTMLResponse(problem_reference.type_html(code), headers=_HTML_FIELDS)
    return _json(problem_reference.type_json(code))


def _is_browser(request: Request) -> bool:
    return problem_reference.is_html_preferred(request.headers.get("accept", ""))


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"vary": "accept"})
