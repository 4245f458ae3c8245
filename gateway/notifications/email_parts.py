"""What helpers of templates write, in text and in HTML: links, and what a one-time token is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from markupsafe import Markup

# Programs that show mails drop style sheets, so each element has its style.
PARAGRAPH = Markup('<p style="margin:0 0 14px;overflow-wrap:anywhere">{}</p>')
_BUTTON = Markup(
    '<p style="margin:20px 0"><a class="button" href="{}" style="display:inline-block;padding:10px 18px;'
    'border-radius:7px;background:#2450b8;color:#ffffff;text-decoration:none;font-weight:600">{}</a></p>'
    '<p style="margin:0 0 14px;font-size:13px;overflow-wrap:anywhere">If the button does nothing, open {}</p>'
)
_TOKEN = Markup('{}<br><code style="font-size:14px">{}</code>')


@dataclass(frozen=True, slots=True)
class Action:
    """The page that takes a token, or the request where there is no page; `until` is when the token ends."""

    url: str | None
    request: str
    token: str
    until: str


class Lines(str):
    """Text whose line breaks are meant."""

    __slots__ = ()


class Format(Protocol):
    def link(self, label: str, url: str) -> str: ...

    def action(self, label: str, action: Action) -> str: ...


class TextFormat:
    def link(self, label: str, url: str) -> str:
        return Lines(f"{label}:\n{url}")

    def action(self, label: str, action: Action) -> str:
        way = f"{action.request} with the token\n{action.token}"
        return Lines(f"{way if action.url is None else self.link(label, action.url)}\n\n{_end(action)}")


class HtmlFormat:
    def link(self, label: str, url: str) -> Markup:
        return _BUTTON.format(url, label, url)

    def action(self, label: str, action: Action) -> Markup:
        request = PARAGRAPH.format(_TOKEN.format(f"{action.request} with the token", action.token))
        way = request if action.url is None else self.link(label, action.url)
        return way + PARAGRAPH.format(_end(action))


def _end(action: Action) -> str:
    return f"This is good once, until {action.until}."
