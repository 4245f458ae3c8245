"""E-mails from templates: one text for each kind of notification, from which the HTML is made too.

A template is text with Jinja2's expressions: the subject, then paragraphs with blank lines between. Files of the same
names in the operator's folder come before those here; a `KIND.html` there replaces the HTML of a kind, and `layout.txt`
and `layout.html` what stands around all of them. A kind without a template is told as its name and payload.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    PackageLoader,
    StrictUndefined,
    TemplateError,
    TemplateNotFound,
    UndefinedError,
)
from markupsafe import Markup

from gateway.notifications.email_parts import PARAGRAPH, Action, Format, HtmlFormat, Lines, TextFormat
from policies.billing.money import CreditValue, exponent, plain

OTHER = "other.txt"
_CREDITS = frozenset({"period_credits", "credits_used_this_period", "current_credits", "balance_below"})
_BLANK = re.compile(r"\n[ \t]*\n\s*")
# Controls would end a header or a line of text, and others turn it around.
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+")
# Of a template, on some payload: it may call methods of values and include itself, and its file may be gone.
_FAILURES = (
    *(TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError),
    *(RecursionError, OSError),
)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Email:
    """`html` is empty where there is text alone."""

    subject: str
    text: str
    html: str = ""


class EmailTemplates:
    """Those of the product, and of `folder` before them.

    `operator` signs the mails. Links lead into the `portal`, such as `https://api.example.com/portal`; None: there is
    none, and mails name the requests of the API. `credit_value` shows credits as money beside the credits.
    """

    def __init__(
        self, *, operator: str, portal: str | None, folder: Path | None, credit_value: CreditValue | None
    ) -> None:
        self._operator = operator
        self._portal = portal
        self._of_product: EmailTemplates | None = None
        if folder is not None:
            self._of_product = EmailTemplates(operator=operator, portal=portal, folder=None, credit_value=credit_value)
        own: list[BaseLoader] = [] if folder is None else [FileSystemLoader(folder, "utf-8-sig")]
        loader = ChoiceLoader([*own, PackageLoader("gateway.notifications")])
        self._text = _environment(loader, credit_value, is_html=False)
        self._html = _environment(loader, credit_value, is_html=True)

    def render(self, kind: str, payload: Mapping[str, Any], *, greeting: str, action: Action | None) -> Email:
        """`action` is what a one-time token is for.

        A payload that another version wrote may lack what the template names, and is then told as it is.
        """
        try:
            return self._render(kind, f"{kind}.txt", payload, greeting=greeting, action=action)
        except _FAILURES as error:
            if not isinstance(error, TemplateNotFound | UndefinedError):
                _log.warning("mail_template_failed", kind=kind, reason=str(error))
        facts = {"title": _title(kind), "facts": payload}
        try:
            return self._render(kind, OTHER, facts, greeting=greeting, action=action)
        except _FAILURES as error:
            if self._of_product is None:
                raise
            _log.warning("mail_template_failed", kind=kind, reason=str(error))
            return self._of_product.render(kind, payload, greeting=greeting, action=action)

    def _render(
        self, kind: str, name: str, payload: Mapping[str, Any], *, greeting: str, action: Action | None
    ) -> Email:
        subject, text = _parts(self._text, name, payload, self._helpers(TextFormat(), action))
        helpers = self._helpers(HtmlFormat(), action)
        html = self._own_html(kind, {**payload, **helpers})
        if html is None:
            html = Markup("\n").join(map(_block, _BLANK.split(_parts(self._html, name, payload, helpers)[1])))
        around = {"operator": self._operator, "greeting": greeting, "subject": subject, "kind": kind}
        return Email(
            subject,
            self._text.get_template("layout.txt").render(around, body=Lines(text)) + "\n",
            self._html.get_template("layout.html").render(around, body=html) + "\n",
        )

    def _own_html(self, kind: str, values: Mapping[str, Any]) -> Markup | None:
        """Of a template of the operator's; the product has none."""
        try:
            template = self._html.get_template(f"{kind}.html")
        except TemplateNotFound:
            return None
        return Markup(template.render(values))  # noqa: S704 - the environment has escaped it

    def _helpers(self, written: Format, action: Action | None) -> dict[str, Any]:
        def link(label: str, page: str, otherwise: str = "") -> str:
            return otherwise if self._portal is None else written.link(label, self._portal + page)

        def one_time(label: str) -> str:
            return "" if action is None else written.action(label, action)

        return {"link": link, "one_time": one_time, "operator": self._operator, "portal": self._portal}


def _environment(loader: BaseLoader, credit_value: CreditValue | None, *, is_html: bool) -> Environment:
    # Text is read as text, and HTML is escaped.
    environment = Environment(loader=loader, autoescape=is_html, undefined=StrictUndefined, finalize=_visible)  # noqa: S701
    environment.filters |= {
        "day": _unbroken_day if is_html else _day,
        "credits": partial(_credits, credit_value),
        "money": _money,
    }
    environment.globals["is_credits"] = _CREDITS.__contains__
    return environment


def _parts(
    environment: Environment, name: str, payload: Mapping[str, Any], helpers: Mapping[str, Any]
) -> tuple[str, str]:
    """The subject and the paragraphs."""
    rendered = environment.get_template(name).render({**payload, **helpers})
    subject, _, body = rendered.strip().partition("\n")
    return " ".join(subject.split()), body.strip()


def _visible(value: Any) -> Any:
    """Values without what cannot be seen; what a helper has written stays, lines and all."""
    return _INVISIBLE.sub(" ", value) if type(value) is str else value


def _block(text: str) -> Markup:
    """A paragraph that the environment has escaped; what begins with an element is one already."""
    written = Markup(text)  # noqa: S704 - as said
    return written if text.startswith("<") else PARAGRAPH.format(Markup("<br>").join(written.splitlines()))


def _title(kind: str) -> str:
    """`credits.checked` as Credits: checked."""
    about, _, what = kind.partition(".")
    return f"{about.capitalize()}: {what.replace('_', ' ').replace('.', ' ')}" if what else about.capitalize()


def _day(instant: str) -> str:
    """Of an ISO 8601 time."""
    return instant[:10]


def _unbroken_day(instant: str) -> Markup:
    return Markup('<span style="white-space:nowrap">{}</span>').format(_day(instant))


def _money(amount: str, currency: str) -> str:
    """`299` of EUR as 299.00 EUR; digits beyond the minor unit stay."""
    exact = Decimal(amount)
    digits = -int(exact.as_tuple().exponent)
    return f"{exact:.{max(exponent(currency), digits)}f} {currency}"


def _credits(credit_value: CreditValue | None, value: Any) -> str:
    """`20`, and where credits are worth something `20 (0.20 USD)`."""
    if credit_value is None or not isinstance(value, int):
        return str(value)
    return f"{value} ({plain(credit_value.amount(value))} {credit_value.currency})"
