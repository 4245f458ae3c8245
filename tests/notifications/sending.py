"""A process that delivers what is due, and dies where it is told to."""

from __future__ import annotations

import asyncio
import os

import httpx

from gateway.ledger.db import notifications
from gateway.ledger.db.session import Database
from gateway.notifications.email_templates import TemplateContext
from gateway.notifications.mailer import SmtpMailer
from gateway.notifications.webhook import Webhook
from gateway.workers.notifications import NotificationSender

SECRET = "whsec_" + "bmV3" * 8
CONTEXT = TemplateContext(secret="s" * 32, operator="Acme", portal="https://api.example.com/portal")


def deliver(database_url: str, smtp_url: str, webhook_url: str, *, dies_unmarked: bool) -> None:
    if dies_unmarked:
        notifications.finish = _die
    asyncio.run(_deliver(database_url, smtp_url, webhook_url))


async def _deliver(database_url: str, smtp_url: str, webhook_url: str) -> None:
    database = Database(database_url)
    async with httpx.AsyncClient() as http:
        mailer = SmtpMailer(smtp_url, sender="Acme <hello@acme.test>")
        sender = NotificationSender(database, mailer, Webhook(webhook_url, [SECRET], http), context=CONTEXT)
        while await sender.run_once():
            pass
    await database.close()


async def _die(*_arguments: object, **_options: object) -> None:
    os._exit(9)
