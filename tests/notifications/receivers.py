"""Who receives what the gateway sends: an SMTP server (aiosmtpd) and an endpoint that verifies Standard Webhooks.

Either can kill the process that sends, by its id, at a step of the exchange.
"""

from __future__ import annotations

import asyncio
import email
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.controller import Controller
from standardwebhooks import Webhook as Verifier


@dataclass
class Victim:
    """The sender of the day: it is killed at `step`, once."""

    step: str | None = None
    pid: int | None = None

    def reach(self, step: str) -> None:
        if step == self.step and self.pid is not None:
            self.step = None
            os.kill(self.pid, signal.SIGKILL)


@dataclass
class Postbox:
    """Handler of aiosmtpd."""

    victim: Victim
    port: int = 0
    emails: list[EmailMessage] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    async def handle_MAIL(self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802
        self.victim.reach("mail begun")
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        received = email.message_from_bytes(envelope.content, policy=default)
        assert isinstance(received, EmailMessage)
        self.emails.append(received)
        self.victim.reach("mail accepted")
        return "250 OK"


@contextmanager
def postbox(victim: Victim) -> Iterator[Postbox]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    box = Postbox(victim, port)
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()


@dataclass
class Endpoint:
    """Takes an event by its id; one that does not verify is an error."""

    victim: Victim
    verifier: Verifier
    port: int = 0
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    posts: Counter[str] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                named = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(fields["content-length"]))
                event = self.verifier.verify(body, {name.lower(): value for name, value in named.items()})
                self.events[named["webhook-id"]] = event
                self.posts[named["webhook-id"]] += 1
                self.victim.reach("event received")
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def endpoint(victim: Victim, secret: str) -> AsyncIterator[Endpoint]:
    found = Endpoint(victim, Verifier(secret))
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        yield found
