"""Requests that pass the gateway have one reading: two parsers behind it read the same, and only admitted ones.

The same bytes go to two data planes, with h11 behind one and httptools behind the other.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from urllib.parse import urlsplit

from hypothesis import HealthCheck, event, given, settings
from sqlalchemy import text

from tests.guarantees.fuzz.conftest import GRANTED, Planes, Way
from tests.guarantees.fuzz.parsers import Read
from tests.guarantees.fuzz.requests import POISON, Field, Mutation, Sent, cuts, groups, in_pieces, mutations
from tests.support.sampling import scaled

PATIENCE_SECONDS = 60.0  # only a failure waits so long
EXAMPLES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

_STATUS = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) ")
# What the gateway says of the request and of its caller, and what frames it.
_OURS = (b"x-gateway-", b"x-forwarded-")
_OURS_TOO = frozenset((b"via", b"x-request-id", b"traceparent", b"host", b"content-length", b"transfer-encoding"))
# Of ours, what differs from one sending of a request to the next.
_OF_ONE_SENDING = frozenset((b"x-request-id", b"traceparent"))


@settings(EXAMPLES, max_examples=scaled(suite=250, full=10_000))
@given(group=groups, cut=cuts)
async def test_legal_requests_reach_both_parsers_as_sent(ways: Planes, group: list[Sent], cut: list[int]) -> None:
    wire = b"".join(sent.wire(ways.account.key.encode()) for sent in group)
    due = _served(group)

    for way in (ways.h11, ways.httptools):
        statuses = await _say(way, [*in_pieces(wire, cut), POISON])
        reads = way.notes.take()
        assert [_as_sent(read) for read in reads] == [sent.expected() for sent in due]
        assert statuses[: len(due)] == [200] * len(due)
        assert 200 not in statuses[len(due) :]
        assert all(_is_to(way, read) for read in reads)


@settings(EXAMPLES, max_examples=scaled(suite=250, full=10_000))
@given(group=groups, wrong=mutations, cut=cuts)
async def test_hostile_bytes_have_one_reading_or_none(
    ways: Planes, group: list[Sent], wrong: list[Mutation], cut: list[int]
) -> None:
    wire = b"".join(sent.wire(ways.account.key.encode()) for sent in group)
    for mutation in wrong:
        wire = mutation.of(wire)
    pieces = [*in_pieces(wire, cut), POISON]

    statuses = [await _say(way, pieces) for way in (ways.h11, ways.httptools)]
    reads = [way.notes.take() for way in (ways.h11, ways.httptools)]

    event(f"{min(statuses[0].count(200), 4)} requests answered")
    assert statuses[0] == statuses[1]
    assert [_comparable(read) for read in reads[0]] == [_comparable(read) for read in reads[1]]
    assert statuses[0].count(200) == len(reads[0])
    assert all(_is_to(ways.h11, read) for read in reads[0])


async def test_read_requests_equal_admitted_and_charged_calls(ways: Planes) -> None:
    """Runs after the two above: all their requests, complete and broken off, are in the books."""
    data_plane, account = ways.h11.data_plane, ways.account
    await _say(ways.h11, [Sent(b"GET", b"/v1/plain", False, (), b"", None, True).wire(account.key.encode())])
    ways.h11.notes.take()
    loaded = await data_plane.settled_state(account)
    balance = await data_plane.stored_balance(account)
    async with data_plane.database.read() as connection:
        query = text("SELECT outcome, status_code, credits_charged FROM usage_tracking WHERE user_id = :user")
        rows = Counter(tuple(row) for row in await connection.execute(query, {"user": account.user_id}))
    complete = ways.h11.notes.total + ways.httptools.notes.total

    assert sum(rows.values()) == loaded.used[2]
    assert sum(count for (outcome, _, _), count in rows.items() if outcome == "succeeded") == complete
    assert {outcome for outcome, _, _ in rows} <= {"succeeded", "client_aborted"}
    assert balance == loaded.balance == GRANTED - sum(charged * count for (_, _, charged), count in rows.items())
    assert sum(charged * count for (_, _, charged), count in rows.items()) >= complete


async def _say(way: Way, pieces: Sequence[bytes]) -> list[int]:
    """Sends the pieces over a connection of their own; the statuses of all answers until the gateway closes it."""
    address = urlsplit(way.data_plane.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    received = b""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            while part := await reader.read(65536):
                received += part
    finally:
        writer.transport.abort()
    return [int(status) for status in _STATUS.findall(received)]


def _served(group: Sequence[Sent]) -> list[Sent]:
    """Those up to the first that closes the connection."""
    for number, sent in enumerate(group, start=1):
        if sent.closes:
            return list(group[:number])
    return list(group)


def _is_ours(name: bytes) -> bool:
    return name.startswith(_OURS) or name in _OURS_TOO


def _as_sent(read: Read) -> tuple[bytes, bytes, list[Field], bytes]:
    return read.method, read.target, [each for each in read.fields if not _is_ours(each[0])], read.body


def _comparable(read: Read) -> tuple[bytes, bytes, list[Field], bytes]:
    fields = [(name, value) for name, value in read.fields if name not in _OF_ONE_SENDING and name != b"host"]
    return read.method, read.target, fields, read.body


def _is_to(way: Way, read: Read) -> bool:
    """Each parser read its own address as the one Host, and one account as the caller."""
    host = [value for name, value in read.fields if name == b"host"]
    users = [value for name, value in read.fields if name == b"x-gateway-user"]
    return host == [urlsplit(way.notes.url).netloc.encode()] and len(users) == 1
