"""E-mails as an SMTP server receives them."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from uuid import UUID

import pytest

from gateway.clock import now
from gateway.notifications import DeliveryFailed
from gateway.notifications.email_templates import Email, TemplateContext, render
from gateway.notifications.mailer import SmtpMailer
from policies.access.tokens import Purpose, one_time
from policies.billing.money import CreditValue
from tests.notifications import smtp

TOKEN_ID = UUID("0198c0de-0000-4000-8000-000000000001")
PAYLOAD = {"token_id": str(TOKEN_ID), "expires_at": "2026-03-15T12:30:00+00:00"}


async def test_email_arrives_unchanged() -> None:
    began = now()
    async with smtp.running() as server:
        mailer = SmtpMailer(server.url, sender="Gateway <hello@gateway.test>")
        await mailer.send("ada@example.com", Email("Grüße", "Zeile eins.\nZeile zwei.\n"), message_id="7")
    (email,) = server.emails
    assert email["To"] == "ada@example.com"
    assert email["From"] == "Gateway <hello@gateway.test>"
    assert email["Subject"] == "Grüße"
    assert email["Message-ID"] == "<7@gateway.test>"
    sent_at = parsedate_to_datetime(email["Date"])  # which RFC 5322 section 3.6 requires
    assert began - timedelta(seconds=1) <= sent_at <= now()
    assert email["Auto-Submitted"] == "auto-generated"
    assert email.get_content().replace("\r\n", "\n") == "Zeile eins.\nZeile zwei.\n"


@pytest.mark.parametrize(
    "operator", ["Café Noir, Inc.", "Société X: AI", 'Müller "KI" <b@c.test>', "Acme, Inc.", "Ä\nB"]
)
async def test_email_is_from_one_address_whatever_the_operator_is_called(operator: str) -> None:
    async with smtp.running() as server:
        mailer = SmtpMailer(server.url, sender="hello@acme.test", operator=operator)
        await mailer.send("ada@example.com", Email("s", "t"), message_id="7")
    (sender,) = server.emails[0]["From"].addresses
    assert (sender.display_name, sender.addr_spec) == (operator.replace("\n", " "), "hello@acme.test")


@pytest.mark.parametrize(
    ("sender", "address"),
    [("hello@bücher.test", "hello@xn--bcher-kva.test"), ("Ada <hello@acme.test>", "hello@acme.test")],
)
async def test_sender_is_an_address_of_the_dns(sender: str, address: str) -> None:
    async with smtp.running() as server:
        await SmtpMailer(server.url, sender=sender, operator="Acme").send(
            "ada@example.com", Email("s", "t"), message_id="7"
        )
    (email,) = server.emails
    assert email["From"].addresses[0].addr_spec == address
    assert email["Message-ID"] == f"<7@{address.rpartition('@')[2]}>"
    assert f"MAIL FROM:<{address}>" in server.commands[1]


@pytest.mark.parametrize(
    ("command", "answer", "is_final"),
    [
        ("RCPT", "550 no such mailbox", True),
        ("RCPT", "450 try later", False),
        ("DATA", "554 refused", True),
        ("MAIL", "451 busy", False),
        ("MAIL", "530 authentication required", False),
        ("MAIL", "550 this sender is not yours", False),
        ("RCPT", "530 authentication required", False),
    ],
)
async def test_permanent_refusal_differs_from_a_temporary_one(command: str, answer: str, is_final: bool) -> None:
    async with smtp.running() as server:
        server.answers[command] = answer
        with pytest.raises(DeliveryFailed, match=answer) as refused:
            await SmtpMailer(server.url, sender="g@x.test").send("a@x.test", Email("s", "t"), message_id="1")
    assert refused.value.is_final is is_final


async def test_refusal_that_is_no_text_is_recorded_as_text() -> None:
    async with smtp.running() as server:
        server.answers["RCPT"] = "550 Empf\udce4nger unbekannt\0"  # ISO 8859-1
        with pytest.raises(DeliveryFailed) as refused:
            await SmtpMailer(server.url, sender="g@x.test").send("a@x.test", Email("s", "t"), message_id="1")
    assert str(refused.value) == "550 Empf\ufffdnger unbekannt?"
    assert refused.value.is_final


async def test_unreachable_server_is_a_temporary_failure() -> None:
    async with smtp.running() as server:
        url = server.url
    with pytest.raises(DeliveryFailed) as away:
        await SmtpMailer(url, sender="g@x.test").send("a@x.test", Email("s", "t"), message_id="1")
    assert not away.value.is_final


async def test_password_is_not_sent_in_the_clear() -> None:
    async with smtp.running() as server:
        mailer = SmtpMailer(server.url.replace("//", "//user:secret@"), sender="g@x.test")
        with pytest.raises(DeliveryFailed):
            await mailer.send("a@x.test", Email("s", "t"), message_id="1")
    assert not any(command.startswith("AUTH") for command in server.commands)


def test_verification_email_links_to_the_configured_page() -> None:
    context = TemplateContext(secret="s", verify_link="https://app.test/verify?t={token}")
    email = render("account.verify_email", PAYLOAD, name="Ada", context=context)
    token = one_time("s", Purpose.VERIFY_EMAIL, TOKEN_ID)
    assert email.text.startswith("Hello Ada,\n")
    assert f"https://app.test/verify?t={token}" in email.text
    assert "until 2026-03-15 12:30 UTC" in email.text


def test_email_without_a_page_names_the_request() -> None:
    email = render("account.reset_password", PAYLOAD, name=None, context=TemplateContext(secret="s"))
    token = one_time("s", Purpose.RESET_PASSWORD, TOKEN_ID)
    assert f"POST /auth/reset-password with the token\n{token}" in email.text


def test_balance_of_credits_that_are_worth_something_is_shown_as_money() -> None:
    context = TemplateContext(secret="s", credit_value=CreditValue("USD", Decimal(100)))
    payload: dict[str, object] = {
        "percent": 80,
        "current_credits": 20,
        "period_credits": 100,
        "credits_used_this_period": 80,
    }
    payload["period_end"] = "2026-03-01T00:00:00+00:00"
    email = render("credits.threshold", payload, name=None, context=context)
    fact = "You have used 80 (0.80 USD) of the 100 (1.00 USD) credits of the period, which ends on 2026-03-01."
    assert f"{fact} 20 (0.20 USD) are left." in email.text
    plain = render("credits.checked", {"percent": 80, "current_credits": 20}, name=None, context=context)
    assert plain.text == "Hello,\n\npercent: 80\ncurrent credits: 20 (0.20 USD)\n\n-- \nGateway\n"


def test_kind_without_template_is_rendered_from_its_payload() -> None:
    email = render("credits.checked", {"percent": 80}, name=None, context=TemplateContext(secret="s"))
    assert (email.subject, email.text) == ("Credits: checked", "Hello,\n\npercent: 80\n\n-- \nGateway\n")
