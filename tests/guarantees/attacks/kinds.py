"""The attacks: what each sends on a connection, whether it then holds the connection, and how a gateway may answer.

`CUT` stands for a connection that the gateway ends without an answer, `HELD` for one that it still serves at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from random import Random
from typing import Any

from policies.access.keys import ENTROPY_BYTES, compose

CUT, HELD = "cut", "held"
KIB, MIB = 1024, 1024**2
PIECE_BYTES = 64 * KIB
KEY_PREFIX = "gw"
Piece = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Aim:
    """What an attacker knows: a key of its own, and what is drawn."""

    key: str
    chance: Random

    def head(self, line: str, *fields: str) -> bytes:
        """The head of a request with the attacker's key."""
        return _head(line, f"x-api-key: {self.key}", *fields)


@dataclass(frozen=True, slots=True)
class Attack:
    """`pieces` gives what one connection sends. One that holds stays after that; without `reads` it takes no answer.

    `answers` are the statuses that are documented for it, or CUT or HELD. `accounts` attack together, and `victim_path`
    is what their victim calls.
    """

    name: str
    pieces: Callable[[Aim], Iterable[Piece]]
    answers: frozenset[str]
    holds: bool = False
    reads: bool = True
    accounts: int = 1
    victim_path: str = "/v1/call"


def _head(line: str, *fields: str) -> bytes:
    return "\r\n".join((f"{line} HTTP/1.1", "host: gateway.test", *fields, "", "")).encode()


def _split(body: bytes) -> Iterator[Piece]:
    view = memoryview(body)
    return (view[start : start + PIECE_BYTES] for start in range(0, len(body), PIECE_BYTES))


def _post(head: Callable[..., bytes], path: str, body: bytes, *fields: str) -> Iterator[Piece]:
    yield head(f"POST {path}", f"content-length: {len(body)}", *fields)
    yield from _split(body)


@cache
def unknown_fields(count: int) -> bytes:
    return json.dumps({f"{each:x}": 0 for each in range(count)}, separators=(",", ":")).encode()


@cache
def many_items(size_bytes: int) -> bytes:
    return b'{"products":[' + b",".join(repeat(b"{}", size_bytes // 3)) + b"]}"


@cache
def many_parts(size_bytes: int) -> bytes:
    part = b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n\r\n'
    return part * (size_bytes // len(part)) + b"--b--\r\n"


@cache
def tiny_chunks(count: int) -> bytes:
    return b"1\r\n \r\n" * count + b"0\r\n\r\n"


def _login_bodies(aim: Aim) -> Iterator[Piece]:
    fields = aim.chance.choice((1_000, 90_000))  # below and above what is taken
    return _post(_head, "/auth/login", unknown_fields(fields), "content-type: application/json")


def _unknown_keys(aim: Aim) -> Iterator[Piece]:
    for _ in range(50):
        key = compose(KEY_PREFIX, aim.chance.randbytes(ENTROPY_BYTES)).secret
        yield _head("GET /v1/call", f"x-api-key: {key}")


def _unfinished_bodies(aim: Aim) -> Iterator[Piece]:
    json_body = ("content-type: application/json", "content-length: 16000")
    yield aim.head("POST /v1/batch", *json_body) if aim.chance.random() < 0.5 else _head("POST /auth/login", *json_body)
    yield b" " * 8_000


def _held_uploads(aim: Aim) -> Iterator[Piece]:
    size_bytes = aim.chance.choice((1, 40_000))  # below and above what leases a connection
    yield aim.head("POST /v1/upload", "content-length: 100000")
    yield bytes(size_bytes)


def _uploads_of_two_accounts(aim: Aim) -> Iterator[Piece]:
    yield aim.head("POST /v1/narrow/upload", "content-length: 100000")
    yield bytes(40_000)


def _priced_json(aim: Aim) -> Iterator[Piece]:
    return _post(aim.head, "/v1/batch", many_items(18 * MIB), "content-type: application/json")


def _multipart_bombs(aim: Aim) -> Iterator[Piece]:
    return _post(aim.head, "/v1/analyze", many_parts(4 * MIB), "content-type: multipart/form-data; boundary=b")


def _replays(aim: Aim) -> Iterator[Piece]:
    for _ in range(50):
        yield from _post(aim.head, "/v1/call", b"{}", "idempotency-key: the-same")


def _idle(aim: Aim) -> Iterator[Piece]:
    if aim.chance.random() < 0.5:
        yield aim.head("GET /v1/call")


def _slow_readers(aim: Aim) -> Iterator[Piece]:
    yield aim.head("GET /v1/large")


def _slow_readers_of_two_accounts(aim: Aim) -> Iterator[Piece]:
    yield aim.head("GET /v1/narrow/large")


def _web_sockets_of_two_accounts(aim: Aim) -> Iterator[Piece]:
    return _web_sockets(aim, "/v1/narrow/socket")


def _web_sockets(aim: Aim, path: str = "/v1/socket") -> Iterator[Piece]:
    fields = ("connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13")
    yield aim.head(f"GET {path}", *fields, "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==")
    yield from repeat(bytes(KIB), 64)


def _one_byte_chunks(aim: Aim) -> Iterator[Piece]:
    fields = ("content-type: application/json", "transfer-encoding: chunked")
    path = aim.chance.choice(("/auth/register", "/v1/batch", "/v1/call"))
    yield aim.head(f"POST {path}", *fields)
    yield from _split(tiny_chunks(1_000_000))


def _poison_calls(aim: Aim) -> Iterator[Piece]:
    for _ in range(20):
        yield aim.head("GET /v1/call", "x-poison: 1")


def _attack(name: str, pieces: Callable[[Aim], Iterable[Piece]], answers: str, **more: Any) -> Attack:
    return Attack(name, pieces, frozenset(answers.split()), **more)


ATTACKS = (
    _attack("login bodies", _login_bodies, "413 422 429"),
    _attack("unknown keys", _unknown_keys, "401 429"),
    _attack("unfinished bodies", _unfinished_bodies, "408 429 held", holds=True),
    _attack("held uploads", _held_uploads, "408 503 held", holds=True),
    _attack(
        "uploads of two accounts",
        _uploads_of_two_accounts,
        "408 503 held",
        holds=True,
        accounts=2,
        victim_path="/v1/narrow/call",
    ),
    _attack("priced JSON of 18 MiB", _priced_json, "200 402 413 429"),
    _attack("multipart bombs", _multipart_bombs, "200"),
    _attack("replays", _replays, "200 409 429"),
    _attack("idle connections", _idle, "200 held", holds=True),
    _attack("slow readers", _slow_readers, "200 503 cut held", holds=True, reads=False),
    _attack("web sockets", _web_sockets, "101 400 503 held", holds=True),
    _attack(
        "slow readers of two accounts",
        _slow_readers_of_two_accounts,
        "200 503 cut held",
        holds=True,
        reads=False,
        accounts=2,
        victim_path="/v1/narrow/call",
    ),
    _attack(
        "web sockets of two accounts",
        _web_sockets_of_two_accounts,
        "101 400 503 held",
        holds=True,
        accounts=2,
        victim_path="/v1/narrow/call",
    ),
    _attack("one-byte chunks", _one_byte_chunks, "400 413"),
    _attack("poison calls", _poison_calls, "502 503"),
)
BY_NAME = {attack.name: attack for attack in ATTACKS}
