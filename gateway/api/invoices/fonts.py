"""The fonts of PDF files: Noto Sans, and after it what has the characters that it lacks.

Fonts come from packages (all under the SIL Open Font License), none from the system. Noto Sans has Latin, Greek and
Cyrillic, Noto Sans JP kana and Chinese characters. The extra `scripts` adds the other East Asian fonts, and the shaper
without which Arabic, Hebrew, Thai and Devanagari come out wrong; only with it FiraGO is used, which has them.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from fpdf import FPDF

PAGES = "\N{SECTION SIGN}\N{PILCROW SIGN}"  # stands for the number of pages until that is known
MISSING = "\N{REPLACEMENT CHARACTER}"
# Families, each with its regular and bold font of pymupdf-fonts.
_NOTO, _FIRAGO = ("noto", "notos", "notosbo"), ("firago", "figo", "figbo")
# Each has Chinese characters in the shapes of one country, so the order decides which those are.
_EAST_ASIAN = ("pylopdf_fonts_jp", "pylopdf_fonts_zh_cn", "pylopdf_fonts_zh_tw", "pylopdf_fonts_ko")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Font:
    """A family with the files of its regular and perhaps its bold style, and the characters that they have."""

    family: str
    paths: tuple[Path, ...]
    characters: frozenset[int]


class Text:
    """Writes with the fonts that a text needs: adding one that it does not need takes a tenth of a second."""

    def __init__(self, pdf: FPDF, text: Iterable[str]) -> None:
        """Adds the fonts to the file. Without any, text is in Helvetica, which has Latin-1 only."""
        wanted = {ord(character) for part in text for character in part if character.isprintable()}
        fonts = list(_needed(wanted | {ord(MISSING)}))
        for font in fonts:
            for style, path in zip(("", "B"), font.paths, strict=False):
                pdf.add_font(font.family, style, path)
        if any(font.family == _FIRAGO[0] for font in fonts):
            pdf.set_text_shaping(True)
        pdf.set_fallback_fonts([font.family for font in fonts[1:]], exact_match=False)
        self.family = fonts[0].family if fonts else "helvetica"
        self._known = frozenset().union(*(font.characters for font in fonts)) or frozenset(range(256))
        if missing := wanted - self._known:
            log.warning("invoice_glyphs_missing", characters="".join(map(chr, sorted(missing)))[:100])

    def shown(self, text: str) -> str:
        """With a sign in place of characters that no font has, and without control characters."""
        sign = MISSING if ord(MISSING) in self._known else "?"
        text = text.replace(PAGES, PAGES[0])
        return "".join((each if ord(each) in self._known else sign) if each.isprintable() else " " for each in text)


def _needed(wanted: set[int]) -> Iterator[Font]:
    """The first font, and those after it that have what is missing so far."""
    missing = wanted
    for number, font in enumerate(_installed()):
        if number == 0 or missing & font.characters:
            yield font
            missing = missing - font.characters


@cache
def _installed() -> tuple[Font, ...]:
    # fontTools tells of tables that it leaves out of each subset, which change nothing that is seen.
    logging.getLogger("fontTools.subset").setLevel(logging.ERROR)
    return (*_latin(), *_east_asian())


def _latin() -> Iterator[Font]:
    """The package has its fonts in modules; fpdf2 wants files."""
    try:
        package = import_module("pymupdf_fonts")
        folder = Path(tempfile.mkdtemp(prefix="gateway-fonts-"))
    except (ImportError, OSError) as error:
        log.warning("invoice_fonts_missing", package="pymupdf-fonts", reason=str(error))
        return
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for family, regular, bold in (_NOTO, _FIRAGO) if find_spec("uharfbuzz") else (_NOTO,):
        paths = folder / f"{regular}.ttf", folder / f"{bold}.ttf"
        for path in paths:
            path.write_bytes(package.myfont(path.stem))
        yield Font(family, paths, _characters(paths[0]) & _characters(paths[1]))


def _east_asian() -> Iterator[Font]:
    for name in _EAST_ASIAN:
        try:
            path = import_module(name).sans_path()
        except ImportError:
            continue
        yield Font(name, (path,), _characters(path))


def _characters(path: Path) -> frozenset[int]:
    from fontTools.ttLib import TTFont

    with TTFont(path, lazy=True) as font:
        return frozenset(font.getBestCmap())
