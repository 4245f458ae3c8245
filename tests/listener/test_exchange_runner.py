"""One task serves a connection's requests, and no request waits for it or is lost with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest

from tests.listener.listening import Client, Listener, connected, listening, respond
from tests.support.polling import eventually

said = ContextVar("said", default="nothing")
HELLO = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"


class Lingering:
    """Answers at once, and goes on until it may end; remembers the tasks it ran in."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[Any]] = []
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        await respond(send, 200, b"hello")
        await self.may_end.wait()


@pytest.fixture
def app() -> Lingering:
    return Lingering()


@pytest.fixture
async def listener(app: Lingering) -> AsyncIterator[Listener]:
    async with listening(app) as listener:
        yield listener


async def test_runner_serves_a_connection_in_one_task(app: Lingering, listener: Listener) -> None:
    async with connected(listener) as client:
        for _ in range(3):
            await _ask(client)

    await eventually(lambda: all(task.done() for task in app.tasks))
    assert len(set(app.tasks)) == 1


async def test_runner_starts_a_task_while_the_last_application_still_runs(app: Lingering, listener: Listener) -> None:
    app.may_end.clear()
    async with connected(listener) as client:
        await _ask(client)
        await _ask(client)
        assert len(set(app.tasks)) == 2
        app.may_end.set()
        await eventually(lambda: not listener.server.server_state.tasks)
        await _ask(client)
        await eventually(lambda: sum(not task.done() for task in set(app.tasks)) == 1)


async def test_runner_separates_the_context_variables_of_requests() -> None:
    seen: list[str] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        seen.append(said.get())
        said.set("by the request before")
        await respond(send, 200, b"hello")

    async with listening(app) as listener, connected(listener) as client:
        for _ in range(2):
            await _ask(client)

    assert seen == ["nothing", "nothing"]


async def test_runner_gives_each_of_repeated_requests_a_scope_of_its_own() -> None:
    seen: list[tuple[str, bool, object]] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        seen.append((scope["path"], "mark" in scope["state"], scope["extensions"]["gateway.client"]))
        scope["path"] = "/elsewhere"
        scope["state"]["mark"] = True
        await respond(send, 200, b"hello")

    async with listening(app) as listener, connected(listener) as client:
        for _ in range(3):
            await _ask(client)

    assert [(path, is_marked) for path, is_marked, _ in seen] == [("/hello", False)] * 3
    assert len({id(exchange) for *_, exchange in seen}) == 3


async def test_runner_replaces_a_task_cancelled_between_requests(app: Lingering, listener: Listener) -> None:
    async with connected(listener) as client:
        await _ask(client)
        app.tasks[0].cancel()
        await _ask(client)

        assert len(set(app.tasks)) == 2


async def test_runner_answers_a_request_whose_task_is_cancelled_before_it(app: Lingering, listener: Listener) -> None:
    async with connected(listener) as client:
        await _ask(client)
        await eventually(lambda: not listener.server.server_state.tasks)
        listener.connections()[0].data_received(HELLO)
        app.tasks[0].cancel()

        answer = await client.answer()

    assert answer is not None
    assert (answer.status, answer.code) == (503, "shutting_down")


async def _ask(client: Client) -> None:
    await client.send(HELLO)
    answer = await client.answer()
    assert answer is not None
    assert answer.body == b"hello"
