"""Clients that disconnect at any moment, each with its own bytes, and an upstream that echoes them."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import repeat
from random import Random
from urllib.parse import urlsplit

from tests.proxy.data_plane import Account, DataPlane
from tests.proxy.upstream import Answer, Exchange

LINES_MAX = 1_500  # of an upload: more than the gateway takes unread
PATIENCE_SECONDS = 60.0  # only a failure waits so long
_RESET = struct.pack("ii", 1, 0)
_NONCE = re.compile(rb"<([0-9a-z.-]+)>")
_REMAINING = re.compile(rb"x-credits-remaining: (-?[0-9]+)\r\n")


class Moment(Enum):
    """The moment of a disconnect."""

    IN_HEAD = "in its head"
    IN_UPLOAD = "in its upload"
    WAITING = "while it waits"
    IN_ANSWER = "within the answer"
    NEVER = "never"


@dataclass(frozen=True)
class Visit:
    """One request and how its client behaves."""

    account: Account
    nonce: str
    moment: Moment
    lines: int
    is_chunked: bool
    resets: bool
    share: float  # of the head, upload or answer, until it leaves
    patience_seconds: float
    is_endless: bool = False

    def pieces(self) -> tuple[bytes, bytes]:
        """Head and body."""
        line = self.line
        body = line * self.lines
        framing = "transfer-encoding: chunked" if self.is_chunked else f"content-length: {len(body)}"
        fields = [f"x-api-key: {self.account.key}", f"x-request-id: {self.nonce}", f"x-nonce: {self.nonce}", framing]
        fields += ["x-endless: yes"] if self.is_endless else []
        head = "\r\n".join(["POST /v1/echo HTTP/1.1", "host: gateway.test", *fields, "", ""]).encode()
        if not self.is_chunked:
            return head, body
        return head, (b"%x\r\n%b\r\n" % (len(line), line)) * self.lines + b"0\r\n\r\n"

    @property
    def line(self) -> bytes:
        return f"<{self.nonce}>\n".encode()


@dataclass
class Findings:
    """Observations of clients and the upstream. `foreign` must stay empty."""

    foreign: list[str] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    statuses: list[int] = field(default_factory=list)


def visits(accounts: list[Account], count: int, chance: Random) -> Iterator[Visit]:
    for number in range(count):
        whose, moment = chance.randrange(len(accounts)), chance.choice(list(Moment))
        yield Visit(
            account=accounts[whose],
            nonce=f"{whose}-{number}",
            moment=moment,
            lines=chance.choice([1, 1, 20, LINES_MAX]),
            is_chunked=chance.random() < 0.3,
            resets=chance.random() < 0.5,
            share=chance.random(),
            patience_seconds=chance.uniform(0, 0.15),
            is_endless=moment is Moment.IN_ANSWER and chance.random() < 0.3,
        )


async def pay(data_plane: DataPlane, visit: Visit, findings: Findings, *, range_of: range) -> None:
    """One visit; `range_of` holds every balance that the account may be told, and none of another's."""
    address = urlsplit(data_plane.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    reply = bytearray()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            with suppress(ConnectionError):
                await _behave(visit, reader, writer, reply)
    finally:
        if visit.resets:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
    _judge(visit, bytes(reply), findings, range_of)


async def _behave(visit: Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: bytearray) -> None:
    head, body = visit.pieces()
    if visit.moment is Moment.IN_HEAD:
        writer.write(head[: int(len(head) * visit.share)])
        await asyncio.sleep(visit.patience_seconds)
        return
    if visit.moment is Moment.IN_UPLOAD:
        writer.write(head + body[: int(len(body) * visit.share)])
        await asyncio.sleep(visit.patience_seconds)
        return
    writer.write(head + body)
    if visit.moment is Moment.WAITING:
        await asyncio.sleep(visit.patience_seconds)
        return
    most = int(600 * visit.share) if visit.moment is Moment.IN_ANSWER else 1 << 30
    while len(reply) < most and not reply.endswith(b"0\r\n\r\n"):
        if not (part := await reader.read(max(1, min(most - len(reply), 65536)))):
            return
        reply.extend(part)


def _judge(visit: Visit, reply: bytes, findings: Findings, range_of: range) -> None:
    if not reply:
        return
    strangers = {nonce.decode() for nonce in _NONCE.findall(reply)} - {visit.nonce}
    remaining = {int(number) for number in _REMAINING.findall(reply)}
    if strangers or not all(number in range_of for number in remaining):
        findings.foreign.append(f"{visit} heard of {strangers or remaining}")
    head, _, _ = reply.partition(b"\r\n\r\n")
    if visit.moment is Moment.NEVER:
        findings.statuses.append(int(head[9:12]))
        if reply.endswith(b"0\r\n\r\n"):
            findings.whole.add(visit.nonce)
            if f"x-request-id: {visit.nonce}\r\n".encode() not in reply:
                findings.foreign.append(f"{visit} heard another's id: {head!r}")


def echo_upstream(findings: Findings, accounts: list[Account], chance: Random) -> Answer:
    """The upstream's answer: some lines of the caller's nonce, slowly. It looks at whose identity and body it gets."""

    async def answer(exchange: Exchange) -> None:
        nonce = exchange["x-nonce"]
        findings.reached.add(nonce)
        account = accounts[int(nonce.partition("-")[0])]
        if exchange["x-gateway-user"] != str(account.user_id) or exchange["x-request-id"] != nonce:
            findings.foreign.append(f"{nonce} came as {exchange.fields}")
        body = await exchange.read()
        line = f"<{nonce}>\n".encode()
        exchange.body.clear()
        if body != line * (len(body) // len(line)):
            findings.foreign.append(f"{nonce} came with a body of another's")
        await asyncio.sleep(chance.uniform(0, 0.05))
        await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in repeat(None) if exchange.all("x-endless") else range(chance.choice([1, 1, 5])):
            lines = line * chance.choice([1, 3, 200])
            await exchange.write(b"%x\r\n%b\r\n" % (len(lines), lines))
            await asyncio.sleep(chance.uniform(0, 0.05))
        await exchange.write(b"0\r\n\r\n")

    return answer
