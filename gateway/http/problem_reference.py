"""The problem types as pages: what `GET /problems/{code}` serves, and docs/reference/errors.md.

`python -m gateway.http.problem_reference > docs/reference/errors.md` writes the latter again.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from html import escape

from gateway.http.problem_types import PROBLEM_TYPES, SECTIONS, ProblemType, type_uri

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem}}
code{{background:#8882;padding:.1em .3em;border-radius:.2em}}</style>
{content}
</html>
"""

_MARKDOWN_HEAD = """\
# Errors

Every response of the gateway's own that is not a success is a problem document (RFC 9457). Its `type` is the path of
the row below: `GET /problems/{code}` on either listener explains it, as JSON or, to a browser, as a page. `code` is for
programs, `detail` for people, and `request_id` finds the request in the logs. `error` repeats the message for the
client libraries of OpenAI and Anthropic, which show it.

This page is made from the code: `python -m gateway.http.problem_reference > docs/reference/errors.md`.
"""


def is_html_preferred(accept: str) -> bool:
    """Whether `Accept` names HTML and not JSON, as a browser's does; without the field the client is a program."""
    ranges = [item.partition(";")[0].strip().lower() for item in accept.split(",")]
    return "text/html" in ranges and not any(item.endswith(("/json", "+json")) for item in ranges)


def type_json(code: str) -> bytes:
    """One problem type. Raises KeyError for a code that is not in the table."""
    return json.dumps(_members(code, PROBLEM_TYPES[code])).encode()


def index_json() -> bytes:
    """All problem types."""
    return json.dumps({"data": [_members(code, kind) for code, kind in PROBLEM_TYPES.items()]}).encode()


def type_html(code: str) -> str:
    """One problem type for people. Raises KeyError for a code that is not in the table."""
    kind = PROBLEM_TYPES[code]
    content = (
        f"<h1>{escape(kind.title)}</h1>\n<p><code>{escape(code)}</code>, status {kind.status}</p>\n"
        f"<h2>What it means</h2>\n<p>{_inline(kind.meaning)}</p>\n"
        f"<h2>What to do</h2>\n<p>{_inline(kind.remedy)}</p>\n"
        '<p><a href="/problems">All errors</a></p>'
    )
    return _PAGE.format(title=escape(f"{kind.title} ({code})"), content=content)


def index_html() -> str:
    """All problem types for people."""
    parts = ["<h1>Errors</h1>"]
    for section, kinds in SECTIONS.items():
        items = [
            f'<li><a href="{type_uri(code)}"><code>{escape(code)}</code></a> {kind.status} {escape(kind.title)}</li>'
            for code, kind in kinds.items()
        ]
        parts += [f"<h2>{escape(section)}</h2>", "<ul>", *items, "</ul>"]
    return _PAGE.format(title="Errors", content="\n".join(parts))


def markdown() -> str:
    """docs/reference/errors.md: a row for each problem type."""
    parts = [_MARKDOWN_HEAD]
    for section, kinds in SECTIONS.items():
        parts += [f"## {section}", "", *_table(kinds.items()), ""]
    return "\n".join(parts)


def _table(kinds: Iterable[tuple[str, ProblemType]]) -> list[str]:
    rows = [f"| `{code}` | {kind.status} | {kind.title} | {kind.meaning} | {kind.remedy} |" for code, kind in kinds]
    return ["| code | status | title | what it means | what to do |", "|---|---|---|---|---|", *rows]


def _members(code: str, kind: ProblemType) -> dict[str, object]:
    return {"type": type_uri(code), "code": code, **kind._asdict()}


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


if __name__ == "__main__":
    sys.stdout.write(markdown())
