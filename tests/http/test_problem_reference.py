"""Each `type` of a problem document leads to an explanation, and docs/reference/errors.md has them all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.http import problem_reference
from gateway.http.problem_types import PROBLEM_TYPES, ProblemType

ERRORS = Path(__file__).parents[2] / "docs/reference/errors.md"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize("kind", PROBLEM_TYPES.values(), ids=PROBLEM_TYPES)
def test_problem_type_explains_itself_in_sentences(kind: ProblemType) -> None:
    assert kind.meaning.endswith(".")
    assert kind.remedy.endswith(".")
    assert "|" not in kind.meaning + kind.remedy  # would end a cell of the table


@pytest.mark.parametrize("code", PROBLEM_TYPES)
def test_problem_page_gives_the_row_of_the_table(code: str) -> None:
    found = json.loads(problem_reference.type_json(code))

    assert found == {"type": f"/problems/{code}", "code": code, **PROBLEM_TYPES[code]._asdict()}
    assert PROBLEM_TYPES[code].title in problem_reference.type_html(code)


@pytest.mark.parametrize("code", PROBLEM_TYPES)
def test_problem_index_links_to_every_page(code: str) -> None:
    assert f'href="/problems/{code}"' in problem_reference.index_html()
    assert code in {each["code"] for each in json.loads(problem_reference.index_json())["data"]}


def test_problem_page_loads_nothing_from_anywhere() -> None:
    page = problem_reference.type_html("bad_request")

    assert "src=" not in page
    assert "http" not in page


@pytest.mark.parametrize(
    ("accept", "is_html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/problem+json, text/html;q=0.5", False),
    ],
)
def test_problem_page_is_html_for_browsers_only(accept: str, is_html: bool) -> None:
    assert problem_reference.is_html_preferred(accept) is is_html


def test_errors_page_of_the_docs_is_that_of_the_table() -> None:
    assert ERRORS.read_text("utf-8") == problem_reference.markdown(), (
        "write it again: python -m gateway.http.problem_reference > docs/reference/errors.md"
    )
