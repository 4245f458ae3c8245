"""Builds the workers that notify users and the operator's system."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from gateway.config import Config
from gateway.ledger.db.session import Database
from gateway.notifications.email_templates import TemplateContext
from gateway.notifications.mailer import LogMailer, Mailer, SmtpMailer
from gateway.notifications.webhook import Webhook
from gateway.workers.cleanup import CleanupWorker
from gateway.workers.notifications import NotificationSender
from gateway.workers.runner import Worker


@asynccontextmanager
async def notification_workers(config: Config, database: Database) -> AsyncIterator[tuple[Worker, ...]]:
    """The workers that send notifications and clean up."""
    async with httpx.AsyncClient(follow_redirects=False) as http:
        url, secrets = config.notices.webhook_url, config.secrets.webhook_secrets
        webhook = Webhook(url, secrets, http) if url and secrets else None
        context = TemplateContext(
            secret=config.secrets.jwt_secret,
            verify_link=config.auth.verify_link,
            reset_link=config.auth.reset_link,
        )
        yield NotificationSender(database, _mailer(config), webhook, context=context), CleanupWorker(database)


def _mailer(config: Config) -> Mailer:
    return LogMailer() if config.mail.smtp is None else SmtpMailer(config.mail.smtp, sender=config.mail.sender)
