"""Each mail says the same in text and HTML, in the operator's name, and files of the operator's come first."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import jinja2.loaders
import pytest

from gateway import notifications
from gateway.notifications.email_templates import Email, TemplateContext, render
from policies.billing import news
from tests.notifications.mails import MAILS

PORTAL = "https://api.example.com/portal"
CONTEXT = TemplateContext(secret="s" * 32, operator="Acme <AI>", portal=PORTAL)
KINDS = [path.stem for path in (Path(notifications.__file__).parent / "templates").glob("*.*.txt")]


def mail(kind: str, context: TemplateContext = CONTEXT, **more: Any) -> Email:
    return render(kind, {**MAILS[kind], **more}, name="Ada", context=context)


def words(email: Email) -> str:
    """What a program for mail shows of the HTML."""
    body = re.sub(r"(?s)<style>.*?</style>|<title>.*?</title>|</?span[^>]*>", "", email.html)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_every_mail_has_a_template_and_an_example() -> None:
    assert set(MAILS) == set(KINDS)
    assert set(KINDS) >= news.MAILED


@pytest.mark.parametrize("kind", sorted(MAILS))
@pytest.mark.parametrize("portal", [PORTAL, None])
def test_text_and_html_say_the_same(kind: str, portal: str | None) -> None:
    email = mail(kind, TemplateContext(secret="s" * 32, operator="Acme <AI>", portal=portal))
    shown = words(email)
    assert email.subject in shown
    for line in email.text.replace("-- ", "").splitlines():
        label = line.removesuffix(":") if portal is not None else line
        assert " ".join(label.split()) in shown, line
    assert (PORTAL in email.text) == (PORTAL in email.html)
    assert "Acme <AI>" in email.text
    assert "Acme &lt;AI&gt;" in email.html
    assert "{{" not in email.text + email.html
    assert max(map(len, email.text.splitlines())) < 998  # RFC 5322 section 2.1.1


def test_failed_payment_links_to_the_page_that_mends_it() -> None:
    email = mail("payment.failed")
    assert f"Fix the payment:\n{PORTAL}/plan\n" in email.text
    assert f'href="{PORTAL}/plan"' in email.html


def test_values_neither_end_a_line_nor_become_elements() -> None:
    email = mail("payment.failed", error="declined\r\nBcc: x\u202e<script>alert(1)</script>")
    assert "declined Bcc: x <script>" in email.text
    assert "<script>" not in email.html
    renamed = mail("subscription.ended", plan="Pro\n\nClick https://evil.example")
    assert "\nClick" not in renamed.text


def test_files_of_the_operator_come_first(tmp_path: Path) -> None:
    (tmp_path / "payment.received.txt").write_text("Danke, {{ operator }}\n\n{{ amount }} sind da.\n")
    (tmp_path / "payment.failed.html").write_text("<p>{{ error }}</p>{{ link('Zahlen', '/plan') }}")
    (tmp_path / "layout.txt").write_text("{{ greeting }}\n\n{{ body }}\n\nAcme GmbH, Berlin")
    context = TemplateContext(secret="s" * 32, operator="Acme", portal=PORTAL, folder=tmp_path)
    email = mail("payment.received", context)
    assert (email.subject, email.text) == ("Danke, Acme", "Hello Ada,\n\n29.99 sind da.\n\nAcme GmbH, Berlin\n")
    assert "29.99 sind da." in email.html
    failed = mail("payment.failed", context, error="<b>")
    assert "<p>&lt;b&gt;</p>" in failed.html
    assert "The reason given" not in failed.html
    assert "The reason given: <b>." in failed.text


def test_byte_order_mark_of_a_file_is_not_sent(tmp_path: Path) -> None:
    for name, written in {
        "payment.received.txt": "Danke\n\n{{ amount }} sind da.",
        "payment.received.html": "<p>{{ amount }}</p>",
        "layout.txt": "{{ body }}",
    }.items():
        (tmp_path / name).write_text(written, "utf-8-sig")
    email = mail("payment.received", TemplateContext(secret="s" * 32, folder=tmp_path))
    assert (email.subject, email.text) == ("Danke", "29.99 sind da.\n")
    assert "\ufeff" not in email.html


@pytest.mark.parametrize(
    "written",
    [
        "{{ nothing.of.this }}",
        "{{ '%(sum)s' | format(amount=amount) }}",
        "{{ '{} {}'.format(amount) }}",
        "{{ '{0.sum}'.format(amount) }}",
        "{% include 'payment.received.txt' %}",
    ],
)
def test_template_that_fails_tells_the_facts(tmp_path: Path, written: str) -> None:
    (tmp_path / "payment.received.txt").write_text(f"Thanks\n\n{written}")
    email = mail("payment.received", TemplateContext(secret="s" * 32, folder=tmp_path))
    assert email.subject == "Payment: received"
    assert "amount: 29.99" in email.text


def test_template_that_can_no_longer_be_read_tells_the_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "payment.received.txt").write_text("Thanks\n\n{{ amount }}")

    def refuse(path: str, *arguments: Any, **options: Any) -> Any:
        if Path(path).is_relative_to(tmp_path):
            raise PermissionError(13, "Permission denied", path)
        return Path(path).open(*arguments, **options)

    monkeypatch.setattr(jinja2.loaders, "open", refuse, raising=False)
    email = mail("payment.received", TemplateContext(secret="s" * 32, folder=tmp_path))
    assert "amount: 29.99" in email.text


def test_layout_that_fails_gives_way_to_that_of_the_product(tmp_path: Path) -> None:
    (tmp_path / "layout.txt").write_text("{{ greeting }}\n\n{{ body }}\n\n{{ company }}")
    email = mail("payment.received", TemplateContext(secret="s" * 32, folder=tmp_path))
    assert "29.99" in email.text
