"""An invoice as a PDF file of A4 pages, as many as it takes."""

from __future__ import annotations

from typing import Any, Literal

from gateway.api.invoices.document import Document
from gateway.api.invoices.fonts import PAGES, Text

_MARGIN = 20
_WIDTH = 210 - 2 * _MARGIN
_COLUMNS = (92, 20, 28, 30)
_SIZE, _SMALL, _LARGE = 9.5, 8, 18
_LINE = 4.8
_GREY = 110
_RULE = 205


def as_pdf(document: Document) -> bytes:
    """The same bytes for the same document. Takes up to a second of CPU, so callers use a thread."""
    pages = _new_pages(document)
    pages.add_page()
    _write_head(pages, document)
    _write_rows(pages, document)
    _write_sums(pages, document)
    _write_notes(pages, document)
    return bytes(pages.output())


def _new_pages(document: Document) -> Any:
    from fpdf import FPDF  # it and its fonts take 30 MiB, which a process without invoices need not load

    class Pages(FPDF):
        """A4 pages with a footer, and the writing of text that fonts may lack."""

        def __init__(self) -> None:
            super().__init__(format="A4")
            self.text_of = Text(self, document.texts())

        def use(self, style: Literal["", "B"] = "", *, size: float = _SIZE, grey: int = 0) -> None:
            self.set_font(self.text_of.family, style, size)
            self.set_text_color(grey)

        def write_lines(self, width: float, text: str, *, height: float = _LINE, align: str = "L") -> None:
            shown = self.text_of.shown(text)
            self.multi_cell(width, height, shown, align=align, new_x="LMARGIN", new_y="NEXT")

        def keep_together(self, lines: int) -> None:
            if self.will_page_break(lines * (_LINE + 1)):
                self.add_page()

        def footer(self) -> None:
            self.set_y(-14)
            self.use(size=_SMALL, grey=_GREY)
            self.cell(_WIDTH / 2, 5, self.text_of.shown(document.title))
            self.cell(_WIDTH / 2, 5, f"Page {self.page_no()} of {PAGES}", align="R")

    pages = Pages()
    pages.set_margins(_MARGIN, _MARGIN)
    pages.set_auto_page_break(True, margin=22)
    if document.issued_at is not None:
        pages.set_creation_date(document.issued_at)
    pages.set_title(document.title)
    pages.alias_nb_pages(PAGES)
    pages.set_lang("en")
    pages.use()
    return pages


def _write_head(pages: Any, document: Document) -> None:
    """Seller and title side by side, then buyer and facts."""
    top = pages.get_y()
    left = _write_party(pages, document.seller)
    pages.set_xy(_MARGIN + _WIDTH / 2, top)
    pages.use("B", size=_LARGE)
    pages.write_lines(_WIDTH / 2, document.title, height=8, align="R")
    top = max(left, pages.get_y()) + 8
    pages.set_y(top)
    pages.use(size=_SMALL, grey=_GREY)
    pages.write_lines(_WIDTH / 2, "Bill to")
    left = _write_party(pages, document.buyer)
    pages.set_y(top)
    for label, value in document.facts:
        pages.set_x(_MARGIN + _WIDTH / 2)
        pages.use(grey=_GREY)
        pages.cell(22, _LINE, label)
        pages.use()
        pages.write_lines(_WIDTH / 2 - 22, value, align="R")
    pages.set_y(max(left, pages.get_y()) + 8)


def _write_party(pages: Any, lines: tuple[str, ...]) -> float:
    """Gives where it ends."""
    for number, line in enumerate(lines):
        pages.use("" if number else "B")
        pages.write_lines(_WIDTH / 2 - 6, line)
    return float(pages.get_y())


def _write_rows(pages: Any, document: Document) -> None:
    from fpdf.enums import TableBordersLayout
    from fpdf.fonts import FontFace

    pages.use()
    pages.set_draw_color(_RULE)
    options: dict[str, Any] = {
        "borders_layout": TableBordersLayout.HORIZONTAL_LINES,
        "headings_style": FontFace(emphasis="BOLD", fill_color=(243, 243, 243)),
        "text_align": ("LEFT", "RIGHT", "RIGHT", "RIGHT"),
        "v_align": "TOP",
        "padding": (1.4, 1.5),
    }
    with pages.table(width=_WIDTH, col_widths=_COLUMNS, line_height=_LINE, **options) as table:
        table.row(("Description", "Quantity", "Unit price", f"Amount {document.currency}"))
        for row in document.rows:
            cells = (row.description, row.quantity, row.unit_price, row.amount)
            table.row([pages.text_of.shown(each) for each in cells])
    pages.ln(3)


def _write_sums(pages: Any, document: Document) -> None:
    """All of them on one page."""
    pairs = (*document.sums, *document.balance)
    pages.keep_together(len(pairs))
    for number, (label, value) in enumerate(pairs):
        is_total = number in (len(document.sums) - 1, len(pairs) - 1)
        pages.use("B" if is_total else "")
        pages.set_x(_MARGIN + _COLUMNS[0])
        pages.cell(38, _LINE + 1, label)
        pages.cell(_WIDTH - _COLUMNS[0] - 38 - 1.5, _LINE + 1, value, align="R", new_x="LMARGIN", new_y="NEXT")


def _write_notes(pages: Any, document: Document) -> None:
    if document.notes:
        pages.ln(6)
        pages.use()
        pages.keep_together(len(document.notes))
        for note in document.notes:
            pages.write_lines(_WIDTH, note)
