"""Puts together who tells users and the operator's system what happened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from gateway.config import Config
from gateway.ledger.db.session import Database
from gateway.notifications.email_templates import Stationery
from gateway.notifications.mailer import LogMailer, Mailer, SmtpMailer
from gateway.notifications.webhook import Webhook
from gateway.workers.cleanup import Tidier
from gateway.workers.notifications import NoticeTeller
from gateway.workers.runner import Worker


@asynccontextmanager
async def notice_workers(config: Config, database: Database) -> AsyncIterator[tuple[Worker, ...]]:
    """The workers of notices, and of what accounts leave behind."""
    async with httpx.AsyncClient(follow_redirects=False) as http:
        url, secrets = config.notices.webhook_url, config.secrets.webhook_secrets
        webhook = Webhook(url, secrets, http) if url and secrets else None
        stationery = Stationery(
            secret=config.secrets.jwt_secret,
            verify_link=config.auth.verify_link,
            reset_link=config.auth.reset_link,
        )
        yield NoticeTeller(database, _mailer(config), webhook, stationery=stationery), Tidier(database)


def _mailer(config: Config) -> Mailer:
    return LogMailer() if config.mail.smtp is None else SmtpMailer(config.mail.smtp, sender=config.mail.sender)
