"""A page of one message, for a process that renders no templates, and refuses what the pages cannot be asked."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from string import Template

from gateway.api.page_policy import policy_of
from gateway.http.problem_types import PROBLEM_TYPES
from gateway.http.problems import Problem

_SOURCE = files("gateway.web").joinpath("plain_page.html").read_text("utf-8")
_TEMPLATE, _POLICY = Template(_SOURCE), policy_of(_SOURCE).encode()


def page_of(problem: Problem, code: str, detail: str, *, site: str) -> Problem:
    """The response in place of a problem document. Raises KeyError for a code that is none."""
    texts = {"title": PROBLEM_TYPES[code].title, "site": site, "detail": detail, "code": code}
    body = _TEMPLATE.substitute({name: escape(text) for name, text in texts.items()}).encode()
    kept = [each for each in problem.fields if each[0] not in (b"content-type", b"content-security-policy")]
    fields = (*kept, (b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", _POLICY))
    return Problem(problem.status, fields, body)


def wants_page(accept: bytes | None) -> bool:
    """Whether a browser goes to the address, rather than a script that fetches."""
    return accept is not None and b"text/html" in accept.lower()
