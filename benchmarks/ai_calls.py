"""What pricing an AI call by its tokens costs: CPU of the gateway, beside the same call at a price for each call.

`python -m benchmarks.ai_calls [--rounds 15] [--calls 400] [--streams 16]`. One `gateway serve`, interleaved rounds: a
completion (2 KB asked, 1 KB answered) and a stream of 300 events that the upstream sends one by one, each at
`credits: 1`, and by a price list with `reader: openai` and `hold: estimate`. Only what a pair differs by within one run
means anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from benchmarks.machine import Family, describe
from benchmarks.peers import ours

EVENTS = 300
CONNECTIONS = 8
EVENT_SECONDS = 0.0005  # between two events of a stream, so that none comes with the next
# The timeout lets a busy machine be slow: a refused call ends the program.
_ROUTES = """
  - {name: flat, match: {path: /flat/v1/chat/completions, methods: [POST]}, upstream: static, price: {credits: 1}}
  - {name: priced, match: {path: /priced/v1/chat/completions, methods: [POST]}, upstream: static, price: openai}
prices:
  openai:
    reader: openai
    per: 1M tokens
    models:
      "gpt-5.6*": {input: 2600000, cached_input: 260000, output: 15600000, max_output: 128000}
      gpt-5.6-mini: {input: 260000, cached_input: 26000, output: 1560000, max_output: 128000}
    hold: estimate
redis: {timeout: 5s}
"""
_USAGE = {
    "prompt_tokens": 500,
    "completion_tokens": 200,
    "total_tokens": 700,
    "prompt_tokens_details": {"cached_tokens": 100, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 64, "audio_tokens": 0},
}
_CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1800000000, "model": "gpt-5.6-mini"}


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    path: str
    body: bytes
    end: bytes  # of an answer


def _asked(**more: Any) -> bytes:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What does it cost? " * 99}]
    return json.dumps({"model": "gpt-5.6-mini", "max_tokens": 500, "messages": messages, **more}).encode()


def _answer() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x" * 560}, "finish_reason": "stop"}
    document = {**_CHUNK, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    body = json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _stream() -> list[bytes]:
    """What the upstream writes: a head, and each event as a chunk."""
    deltas: list[dict[str, Any]] = [
        {**_CHUNK, "choices": [{"index": 0, "delta": {"content": f" word{number}"}, "finish_reason": None}]}
        for number in range(EVENTS - 2)
    ]
    texts = [*(json.dumps(each) for each in [*deltas, {**_CHUNK, "choices": [], "usage": _USAGE}]), "[DONE]"]
    events = [f"data: {text}\n\n".encode() for text in texts]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%b\r\n" % (len(event), event) for event in events), b"0\r\n\r\n"]


_PLAIN, _STREAMED, _TOLD = _asked(), _asked(stream=True), _asked(stream=True, stream_options={"include_usage": True})
_LAST = b"0\r\n\r\n"
CASES = (
    Case("completion, per call", "/flat/v1/chat/completions", _PLAIN, b"}"),
    Case("completion, by its tokens", "/priced/v1/chat/completions", _PLAIN, b"}"),
    Case("stream, per call", "/flat/v1/chat/completions", _TOLD, _LAST),
    Case("stream, by its tokens", "/priced/v1/chat/completions", _TOLD, _LAST),
    Case(
        "stream, by its tokens, which the gateway asks for and hides", "/priced/v1/chat/completions", _STREAMED, _LAST
    ),
)


class _Upstream(asyncio.Protocol):
    """Answers by what the body asks for."""

    answer, stream = _answer(), _stream()

    def connection_made(self, transport: Any) -> None:
        self._transport, self._buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]):
            return
        self._buffer = b""
        if b'"stream"' in body:
            self._write(0)
        else:
            self._transport.write(self.answer)

    def _write(self, position: int) -> None:
        self._transport.write(self.stream[position])
        if position + 1 < len(self.stream):
            asyncio.get_running_loop().call_later(EVENT_SECONDS, self._write, position + 1)


def _serve_upstream(pipe: Pipe) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(_Upstream, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    uvloop.run(run())


async def _call(url: str, key: str, case: Case, *, times: int) -> None:
    """Makes the calls over a few connections. Ends the program where an answer is none."""
    address, left = urlsplit(url), [case] * times
    head = f"POST {case.path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(case.body)}\r\n\r\n"
    request = head.encode() + case.body

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        while left:
            left.pop()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"{case.name}: {answer.decode()}")
            length = answer.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await (reader.readexactly(int(length)) if length else reader.readuntil(case.end))
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))


def _microseconds(family: Family) -> float:
    """CPU of all threads so far, by the scheduler's own clock."""
    paths = (path for pid in family.pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(path.read_text().split()[0]) for path in paths) / 1000


async def _measure(url: str, key: str, family: Family, given: argparse.Namespace) -> dict[str, list[float]]:
    """Microseconds of the gateway for each call, by case and round; the first round only warms up."""
    spent: dict[str, list[float]] = {case.name: [] for case in CASES}
    for number in range(given.rounds + 1):
        for case in CASES:
            times = given.streams if case.end == _LAST else given.calls
            before = _microseconds(family)
            await _call(url, key, case, times=times)
            if number:
                spent[case.name].append((_microseconds(family) - before) / times)
    return spent


def _report(spent: dict[str, list[float]], rounds: int) -> None:
    call, priced, *streams = CASES
    print(f"{describe()}; {rounds} interleaved rounds\n")
    print("| | CPU µs, least | against the same call, per call: least, median (spread) |\n|---|---|---|")
    for case, base in ((call, call), (priced, call), *((stream, streams[0]) for stream in streams)):
        ratios = [one / other for one, other in zip(spent[case.name], spent[base.name], strict=True)]
        least = min(spent[case.name]) / min(spent[base.name])
        print(f"| {case.name} | {min(spent[case.name]):,.1f} | {least:.2f}, {_spread(ratios)} |")
    print(
        "\n| of a stream | CPU µs an event, least | above forwarding it: by the least, median (spread) |\n|---|---|---|"
    )
    forwarded = spent[streams[0].name]
    for stream in streams:
        above = [(one - other) / EVENTS for one, other in zip(spent[stream.name], forwarded, strict=True)]
        least = (min(spent[stream.name]) - min(forwarded)) / EVENTS
        print(f"| {stream.name} | {min(spent[stream.name]) / EVENTS:.2f} | {least:.2f}, {_spread(above)} |")


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.ai_calls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--streams", type=int, default=16)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    upstream = context.Process(target=_serve_upstream, args=(far,), daemon=True)
    upstream.start()
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            ours.serving(Path(folder), near.recv(), more_routes=_ROUTES) as (contender, _),
        ):
            spent = uvloop.run(_measure(contender.url, contender.keys["ok"], contender.processes, given))
    finally:
        near.send(None)
        upstream.join()
    _report(spent, given.rounds)


if __name__ == "__main__":
    main()
