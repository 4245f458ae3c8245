"""Sends e-mail by SMTP, or writes it to the log while no server is configured."""

from __future__ import annotations

from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import Protocol
from urllib.parse import unquote, urlsplit

import aiosmtplib
import structlog

from gateway.clock import now
from gateway.email_addresses import is_plain, normalised
from gateway.notifications import DeliveryFailed
from gateway.notifications.emails import Email

TIMEOUT_SECONDS = 15.0
_PORTS = {"smtp": 587, "smtps": 465}
# RFC 5321 section 4.2.1: permanent negative replies begin with 5.
_FINAL = range(500, 600)
# RFC 4954 section 6, which may come at any command.
_OF_LOGIN = frozenset({530, 534, 535, 538})
_log = structlog.get_logger()


class Mailer(Protocol):
    """Sends e-mails. `message_id` is the same at every attempt, so that receivers can drop duplicates."""

    async def send(self, to: str, email: Email, *, message_id: str) -> None:
        """Raises DeliveryFailed."""


class SmtpMailer:
    """`smtp://` uses STARTTLS where the server offers it, `smtps://` uses TLS from the start.

    A password in the URL is never sent without TLS. `sender` is one address; without a name of its own it has that of
    the `operator`.
    """

    def __init__(self, url: str, *, sender: str, operator: str = "") -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or _PORTS[parts.scheme]
        self._is_tls = parts.scheme == "smtps"
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        name, address = parseaddr(sender)
        self._sender = Address(" ".join((name or operator).split()), addr_spec=normalised(address))

    async def send(self, to: str, email: Email, *, message_id: str) -> None:
        if not is_plain(to):
            raise DeliveryFailed("the address is not that of one plain mailbox", is_final=True)
        try:
            await aiosmtplib.send(
                _message(to, email, sender=self._sender, message_id=message_id),
                recipients=[to],
                hostname=self._host,
                port=self._port,
                username=self._user,
                password=self._password,
                use_tls=self._is_tls,
                start_tls=None if self._is_tls or self._password is None else True,
                timeout=TIMEOUT_SECONDS,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _delivery_failed(error.recipients[0]) from error
        except aiosmtplib.SMTPResponseException as error:
            raise _delivery_failed(error) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise DeliveryFailed(str(error) or type(error).__name__) from error


class LogMailer:
    """For development: the log contains the e-mails, tokens included."""

    async def send(self, to: str, email: Email, *, message_id: str) -> None:
        _log.info("email_logged", to=to, subject=email.subject, text=email.text, message_id=message_id)


def _message(to: str, email: Email, *, sender: Address, message_id: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    message["To"] = to
    message["Subject"] = email.subject
    message["Date"] = format_datetime(now())
    message["Message-ID"] = f"<{message_id}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834 section 5: no out-of-office answers, please
    message.set_content(email.text)
    if email.html:
        message.add_alternative(email.html, subtype="html")
    return message


def _delivery_failed(response: aiosmtplib.SMTPResponseException) -> DeliveryFailed:
    """Final is what is said of this mail alone. The operator can correct a login or sender that is refused."""
    is_of_mail = isinstance(response, aiosmtplib.SMTPRecipientRefused | aiosmtplib.SMTPDataError)
    is_final = is_of_mail and response.code in _FINAL and response.code not in _OF_LOGIN
    return DeliveryFailed(f"{response.code} {response.message}", is_final=is_final)
