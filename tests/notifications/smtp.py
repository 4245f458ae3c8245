"""An SMTP server with scripted replies that records e-mails (RFC 5321)."""

from __future__ import annotations

import asyncio
import email
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default


@dataclass
class MailServer:
    """`answers` maps a command's first word to a reply other than 250; surrogates are bytes that are not UTF-8."""

    port: int = 0
    answers: dict[str, str] = field(default_factory=dict)
    emails: list[EmailMessage] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.test\r\n")
        while line := (await reader.readline()).decode().strip():
            self.commands.append(line)
            word = line.split()[0].upper()
            answer = self.answers.get(
                word, "354 go on" if word == "DATA" else "221 bye" if word == "QUIT" else "250 ok"
            )
            writer.write(f"{answer}\r\n".encode(errors="surrogateescape"))
            if answer.startswith("354"):
                await self._take(reader)
                writer.write(b"250 ok\r\n")
        writer.close()

    async def _take(self, reader: asyncio.StreamReader) -> None:
        data = (await reader.readuntil(b"\r\n.\r\n")).removesuffix(b".\r\n")
        received = email.message_from_bytes(data, policy=default)
        assert isinstance(received, EmailMessage)
        self.emails.append(received)


@asynccontextmanager
async def running() -> AsyncIterator[MailServer]:
    mail = MailServer()
    server = await asyncio.start_server(mail.serve, "127.0.0.1", 0)
    mail.port = server.sockets[0].getsockname()[1]
    async with server:
        yield mail
