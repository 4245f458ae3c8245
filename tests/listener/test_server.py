"""What the listener makes of each request: the answer, what the application saw, and whether the connection lives."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.listener.listening import PROBE, Listener, Recorder, connected, listening
from tests.proxy.requests import Case, cases

ALL = cases()
SPLIT = [case for number, case in enumerate(ALL) if len(case.data) <= 160 and number % 19 == 0]


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
async def listener(recorder: Recorder) -> AsyncIterator[Listener]:
    async with listening(recorder) as running:
        yield running


async def check(case: Case, listener: Listener, recorder: Recorder, *pieces: bytes) -> None:
    recorder.seen.clear()
    async with connected(listener) as client:
        await client.send(*pieces)
        answers = [await client.final_answer() for _ in case.statuses]
        if case.stays_open:
            await client.send(PROBE)
        rest = await client.answers()

    assert [answer.status for answer in answers] == list(case.statuses)
    assert answers[-1].code == case.code
    assert [answer.status for answer in rest] == ([200] if case.stays_open else [])
    assert (answers[-1].headers.get(b"connection") == b"close") is not case.stays_open
    assert tuple(recorder.seen) == case.seen


def test_request_table_is_long() -> None:
    assert len(ALL) >= 300


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
async def test_request_gets_exactly_one_response(case: Case, listener: Listener, recorder: Recorder) -> None:
    await check(case, listener, recorder, case.data)


@pytest.mark.parametrize("case", SPLIT, ids=lambda case: case.name)
async def test_request_is_read_the_same_however_it_is_cut(case: Case, listener: Listener, recorder: Recorder) -> None:
    for cut in range(1, len(case.data)):
        await check(case, listener, recorder, case.data[:cut], case.data[cut:])


@pytest.mark.parametrize("case", [case for case in ALL if len(case.data) < 600][::7], ids=lambda case: case.name)
async def test_request_is_read_the_same_byte_by_byte(case: Case, listener: Listener, recorder: Recorder) -> None:
    await check(case, listener, recorder, *(case.data[at : at + 1] for at in range(len(case.data))))
