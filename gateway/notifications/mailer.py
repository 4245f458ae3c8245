"""Mail to users: by SMTP, or, while nobody has set that up, into the log."""

from __future__ import annotations

from email.message import EmailMessage
from typing import Protocol
from urllib.parse import unquote, urlsplit

import aiosmtplib
import structlog

from gateway.notifications.email_templates import Letter
from gateway.notifications.errors import Undelivered

TIMEOUT_SECONDS = 15.0
_PORTS = {"smtp": 587, "smtps": 465}
# RFC 5321 section 4.2.1: what the server refuses for good begins with 5.
_FINAL = range(500, 600)
_log = structlog.get_logger()


class Mailer(Protocol):
    """Delivers letters. `message_id` is the same at every attempt, so that receivers may drop a repetition."""

    async def send(self, to: str, letter: Letter, *, message_id: str) -> None:
        """Raises Undelivered."""


class SmtpMailer:
    """By the server of the URL: `smtp://` with STARTTLS where it is offered, `smtps://` with TLS from the start.

    Where the URL holds a password it is never sent without TLS.
    """

    def __init__(self, url: str, *, sender: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or _PORTS[parts.scheme]
        self._is_tls = parts.scheme == "smtps"
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._sender = sender

    async def send(self, to: str, letter: Letter, *, message_id: str) -> None:
        try:
            await aiosmtplib.send(
                _message(to, letter, sender=self._sender, message_id=message_id),
                hostname=self._host,
                port=self._port,
                username=self._user,
                password=self._password,
                use_tls=self._is_tls,
                start_tls=None if self._is_tls or self._password is None else True,
                timeout=TIMEOUT_SECONDS,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _undelivered(error.recipients[0]) from error
        except aiosmtplib.SMTPResponseException as error:
            raise _undelivered(error) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise Undelivered(str(error) or type(error).__name__) from error


class LogMailer:
    """For development: whoever reads the log gets the mail, tokens included."""

    async def send(self, to: str, letter: Letter, *, message_id: str) -> None:
        _log.info("mail", to=to, subject=letter.subject, text=letter.text, message_id=message_id)


def _message(to: str, letter: Letter, *, sender: str, message_id: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    message["To"] = to
    message["Subject"] = letter.subject
    message["Message-ID"] = f"<{message_id}@{sender.rpartition('@')[2].rstrip('>') or 'localhost'}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834 section 5: no out-of-office answers, please
    message.set_content(letter.text)
    return message


def _undelivered(answer: aiosmtplib.SMTPResponseException) -> Undelivered:
    # A refused login is the operator's to put right, and the mail then goes out.
    is_final = answer.code in _FINAL and not isinstance(answer, aiosmtplib.SMTPAuthenticationError)
    return Undelivered(f"{answer.code} {answer.message}", is_final=is_final)
