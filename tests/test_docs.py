"""Documentation points only at what exists."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from gateway.notifications.events import EVENTS
from policies.billing import news

ROOT = Path(__file__).parents[1]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(#[^)]*)?\)")
ANCHOR = re.compile(r"\]\((?!https?:)([^)#]*)#([^)]*)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINKED = re.compile(r"\[([^\]]*)\]\([^)]*\)")
PAGE = re.compile(r'"([\w/-]+\.md)"')
KIND = re.compile(r'(?:kind=|KIND\w*(?:, KIND\w*)* = )"([a-z_]+\.[a-z_]+)"')
PATH = re.compile(r"`((?:gateway|policies|tests|deploy|docs|migrations|benchmarks)/[\w./-]+)`")


@pytest.mark.parametrize("page", PAGES)
def test_docs_link_to_what_exists(page: str) -> None:
    file = ROOT / page
    missing = [target for target, _ in LINK.findall(file.read_text()) if not (file.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_docs_link_to_headings_that_exist(page: str) -> None:
    file = ROOT / page
    found = ((file.parent / target if target else file, anchor) for target, anchor in ANCHOR.findall(file.read_text()))
    missing = [f"{target.name}#{anchor}" for target, anchor in found if anchor not in anchors(target)]
    assert not missing


@cache
def anchors(page: Path) -> frozenset[str]:
    """Of the headings whose anchor is the same where the repository is read and in the site.

    The site joins hyphens in a row into one, and leaves out letters beyond ASCII.
    """
    headings = [LINKED.sub(r"\1", heading) for heading in HEADING.findall(CODE.sub("", page.read_text()))]
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return frozenset(slug for slug in slugs if slug.isascii() and "--" not in slug)


def test_anchor_that_only_one_of_both_makes_is_none(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `gateway` & more\n\n## Two: of [it](x.md)\n\n```\n# no heading\n```\n")
    assert anchors(page) == {"two-of-it"}


@pytest.mark.parametrize("page", PAGES)
def test_docs_name_files_that_exist(page: str) -> None:
    missing = [path for path in PATH.findall((ROOT / page).read_text()) if not (ROOT / path).exists()]
    assert not missing


def test_each_page_is_in_the_navigation_of_the_site() -> None:
    listed = set(PAGE.findall((ROOT / "zensical.toml").read_text()))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not page.startswith("decisions/")} - {"README.md"} <= listed


def test_each_decision_has_a_number_of_its_own() -> None:
    numbers = [path.name.partition("-")[0] for path in (ROOT / "docs" / "decisions").glob("0*.md")]
    assert sorted(numbers) == [f"{number + 1:04d}" for number in range(len(numbers))]


def test_every_event_of_the_product_is_in_its_reference() -> None:
    written = {kind for path in (ROOT / "gateway").rglob("*.py") for kind in KIND.findall(path.read_text("utf-8"))}
    named = {value for name, value in vars(news).items() if name.isupper() and isinstance(value, str)}
    assert written | named <= EVENTS.keys()
    assert {kind for kind in EVENTS if kind.startswith(("subscription.", "payment."))} == named
